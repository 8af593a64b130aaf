"""The parent process of one worker: starts the program, records its end, leaves nothing behind.

Run as `python -I -S shim.py FOLDER LOG_LIMIT DATA_LIMIT CGROUP... -- COMMAND...` by `launch`,
in a session of its own, so that it outlives the Temporal worker. It takes over three things:

- file descriptor 3, which carries the `flock` on the worker's folder: held as long as this process
  lives, whatever kills it; never inherited by the program;
- its environment, which is the program's, unchanged (the execution's token is in it, so it may
  stand neither on disk nor in the arguments);
- SIGTERM, which it passes on to the program once; after the deadline that `terminate.json` gives
  it kills all that is left, also when no caller waits for that any more.

`worker.json` is written before the program runs its first instruction, `exit.json` after the last
process of the worker is gone. A worker.json without exit.json and without the lock therefore means
that this process was killed; the kernel then kills the program (PR_SET_PDEATHSIG).

Standard library only, and of that little: each import is paid at the start of every worker (json
and enum alone would double the time). It must run single-threaded: PR_SET_PDEATHSIG fires when the
*thread* that forked ends.

A warm worker's shim is forked, not executed: `parent_program` calls `supervise`.
"""

# pathlib and contextlib are slow to import:
# ruff: noqa: PTH104, PTH106, PTH123, PTH208, SIM105

import ctypes
import os
import resource
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
else:
    # `signal` is this module plus enums, which take longer to import than all of the above.
    import _signal as signal

LOCK_DESCRIPTOR = 3
DEFAULT_GRACE_SECONDS = 10.0
DRAIN_SECONDS = 1.0
"""How long output is still read after the last process; another process may hold a pipe's end."""

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
_READ_BYTES = 65536


class Options:
    """What the command line says, in the order in which `launch` puts it there.

    Attributes:
        folder: the worker's folder, absolute.
        log_limit: bytes of output that are kept.
        data_limit: RLIMIT_DATA of the program in bytes; 0 = none.
        cgroups: folders of the cgroups that the program joins; they exist, and are removed here.
        command: the program, an absolute path, and its arguments.
    """

    def __init__(self, arguments: list[str]) -> None:
        separator = arguments.index("--")
        self.folder, log_limit, data_limit, *self.cgroups = arguments[:separator]
        self.log_limit = int(log_limit)
        self.data_limit = int(data_limit)
        self.command = arguments[separator + 1 :]


class Output:
    """Copies the program's output to a file of limited size, and never lets the program block."""

    def __init__(self, source: int, path: str, limit: int) -> None:
        self.source = source
        self.room = limit
        self.limit = limit
        self.target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.last = b"\n"
        self.keeping = True

    def copy(self) -> bool:
        """Copy what is there; False at the end of the output."""
        data = os.read(self.source, _READ_BYTES)
        if not data:
            return False
        if self.keeping:
            try:
                self._keep(data)
            except OSError as error:
                # A full disk must not end the program: the rest of the output is dropped.
                self.keeping = False
                write_shim_log(f"output is no longer kept: {error}")
        return True

    def _keep(self, data: bytes) -> None:
        kept = data[: self.room]
        self.room -= len(kept)
        if kept:
            write_all(self.target, kept)
            self.last = kept[-1:]
        if len(kept) < len(data):
            self.keeping = False
            newline = "" if self.last == b"\n" else "\n"
            notice = f"output is cut here; the limit of {self.limit} bytes is reached"
            write_all(self.target, f"{newline}[control-plane: {notice}]\n".encode())


class Supervisor:
    """Follows the program to its end."""

    def __init__(self, program: int, output: Output, wakeup: int) -> None:
        self.program = program
        self.output = output
        self.wakeup = wakeup
        self.status: int | None = None
        self.childless = False
        self.stop_requested = False
        self.deadline: float | None = None
        self.poll = select.poll()
        self.poll.register(wakeup, select.POLLIN)
        self.poll.register(output.source, select.POLLIN)
        self.output_open = True

    def request_stop(self, *_: object) -> None:
        """SIGTERM handler."""
        self.stop_requested = True

    def run(self, cgroups: list[str]) -> int:
        """Return the program's wait status when no process of the worker is left."""
        self.reap()
        while self.status is None:
            self.wait(None if self.deadline is None else self.deadline - time.monotonic())
            if self.stop_requested and self.deadline is None and self.status is None:
                self.deadline = read_deadline()
                send_signal(-self.program, signal.SIGTERM)
            if self.deadline is not None and time.monotonic() >= self.deadline:
                break
        self.kill_all(cgroups)
        end = time.monotonic() + DRAIN_SECONDS
        while self.output_open and time.monotonic() < end:
            self.wait(end - time.monotonic())
        return self.status or 0

    def wait(self, seconds: float | None) -> None:
        """Sleep until a signal, output, or the end of the time; then do what is due."""
        milliseconds = None if seconds is None else max(0, int(seconds * 1000) + 1)
        for descriptor, _ in self.poll.poll(milliseconds):
            if descriptor == self.wakeup:
                os.read(self.wakeup, 4096)
            elif not self.output.copy():
                self.poll.unregister(self.output.source)
                self.output_open = False
        self.reap()

    def reap(self) -> None:
        """Collect ended children; orphans of the program are children of this process too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.childless = True
                return
            if pid == 0:
                return
            if pid == self.program:
                self.status = status

    def kill_all(self, cgroups: list[str]) -> None:
        """Kill until no descendant is left; daemons do not outlive their worker."""
        pause = 0.01
        while not self.childless:
            for cgroup in cgroups:
                # Against programs that fork faster than they are found.
                if not write_file(f"{cgroup}/cgroup.kill", "1"):
                    write_file(f"{cgroup}/pids.max", "0")
            for pid in descendants(os.getpid()):
                send_signal(pid, signal.SIGKILL)
            self.wait(pause)
            pause = min(pause * 1.5, 0.5)


def descendants(ancestor: int) -> list[int]:
    """List all descendants of a process, parents first."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := stat_fields(int(name))):
            children.setdefault(int(fields[1]), []).append(int(name))
    found = list(children.get(ancestor, ()))
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def stat_fields(pid: int) -> list[bytes]:
    """Read /proc/PID/stat from the third field (the state) on; empty if there is no such process.

    The second field is a name in parentheses that may hold spaces and parentheses itself.
    """
    return read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def start_time(pid: int) -> int:
    """Give a process's start time in clock ticks since boot: with the pid, its identity."""
    return int(stat_fields(pid)[19])


def send_signal(pid: int, number: int) -> None:
    """Signal a process, or the group of process -PID (man 2 kill), that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def read_deadline() -> float:
    """Give the monotonic time after which the worker is killed."""
    import json  # noqa: PLC0415 - only paid by workers that are terminated

    now = time.monotonic()
    try:
        return min(float(json.loads(read_file("terminate.json"))["deadline"]), now + 86400)
    except (ValueError, KeyError, TypeError):
        # A SIGTERM that is not ours, e.g. of a machine that shuts down.
        return now + DEFAULT_GRACE_SECONDS


def join(cgroups: list[str]) -> None:
    """Move this process, which must be single-threaded, into cgroups.

    A process that moves itself by `tasks` (version 1) does not need the kernel's global lock, which
    takes up to 20 ms.

    Raises:
        OSError: the kernel refuses.
    """
    for cgroup in cgroups:
        if not (write_file(f"{cgroup}/tasks", "0") or write_file(f"{cgroup}/cgroup.procs", "0")):
            raise OSError(f"the cgroup {cgroup} cannot be joined")


def oom_kills(cgroups: list[str]) -> int:
    """Count the kernel's memory kills in the worker's cgroups."""
    count = 0
    for cgroup in cgroups:
        for name in ("memory.events", "memory.oom_control"):
            for line in read_file(f"{cgroup}/{name}").splitlines():
                if line.startswith(b"oom_kill "):
                    count += int(line.split()[1])
    return count


def read_file(path: str) -> bytes:
    """Read a whole file; nothing if that is not possible."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything, in as many calls as it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_file(path: str, text: str) -> bool:
    """Write to a file that exists; False if that is not possible."""
    try:
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True


def replace_file(path: str, text: str) -> None:
    """Write a whole file or none: a reader never sees half of it."""
    temporary = f"{path}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(text.encode("utf-8", "replace"))
    os.rename(temporary, path)


def quoted(text: str) -> str:
    """Give a text as JSON."""
    printable = "".join(max(character, " ") for character in text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'


def write_shim_log(text: str) -> None:
    """Write to shim.log; a full disk must not end the worker."""
    try:
        os.write(2, f"{text}\n".encode("utf-8", "replace"))
    except OSError:
        pass


def prctl(option: int, value: int) -> None:
    """Change an attribute of this process, man 2 prctl.

    Raises:
        OSError: the kernel refuses.
    """
    library = ctypes.CDLL(None, use_errno=True)
    # The kernel takes unsigned longs and checks all their bits.
    nothing = ctypes.c_ulong(0)
    if library.prctl(option, ctypes.c_ulong(value), nothing, nothing, nothing) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def become_program(
    options: Options, *, output: int, ready: int, go: int, run: "Callable[[], None] | None"
) -> None:
    """Be the child: get ready, wait for the word, run the program. Does not return."""
    try:
        signal.set_wakeup_fd(-1)
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGCHLD", "SIGPIPE", "SIGXFSZ"):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        os.close(LOCK_DESCRIPTOR)
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if options.data_limit:
            resource.setrlimit(resource.RLIMIT_DATA, (options.data_limit, options.data_limit))
        # When the whole machine is short of memory, rather a program than a shim or a database.
        write_file("/proc/self/oom_score_adj", "500")
        join(options.cgroups)
        # Standard input stays what it is for the shim: /dev/null.
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir("work")
        # The environment as it was passed in: Python may have added LC_CTYPE to its copy.
        with open("/proc/self/environ", "rb") as file:
            entries = [entry.partition(b"=") for entry in file.read().split(b"\0") if entry]
        environment = {name: value for name, _, value in entries}
        os.write(ready, b"r")
        # End of file: the shim has died, perhaps before PR_SET_PDEATHSIG was set here.
        if os.read(go, 1) != b"g":
            os._exit(1)
        if run is None:
            os.execve(options.command[0], options.command, environment)  # noqa: S606 - that is the job
        for descriptor in (output, ready, go):
            os.close(descriptor)
        run()
    except OSError as error:
        os.write(ready, f"{options.command[0]} cannot be run: {error.strerror or error}".encode())
    finally:
        os._exit(127)


def read_to_end(descriptor: int) -> bytes:
    """Read until all writers are gone."""
    data = b""
    while piece := os.read(descriptor, _READ_BYTES):
        data += piece
    return data


def close_descriptors(*, but: set[int]) -> None:
    """Close all descriptors above the lock's, except some."""
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > LOCK_DESCRIPTOR and descriptor not in but:
            # Not `close`: it fails on the listing's own descriptor, which is closed already.
            os.closerange(descriptor, descriptor + 1)


def supervise(
    options: Options, *, run: "Callable[[], None] | None" = None, keep: tuple[int, ...] = ()
) -> None:
    """Be the shim of one worker. Does not return, unless the program could not be started.

    Args:
        options: what the worker is like.
        run: what the program does; by default it executes `options.command`. It keeps the
            descriptors that were open before, and never returns.
        keep: descriptors that stay open here.
    """
    os.chdir(options.folder)
    os.set_inheritable(LOCK_DESCRIPTOR, False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    shim = os.getpid()

    wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    output_read, output_write = os.pipe()
    ready_read, ready_write = os.pipe()
    go_read, go_write = os.pipe()

    program = os.fork()
    if program == 0:
        # With these closed here, the death of the shim is the end of file in `go`.
        for descriptor in (go_write, wakeup_read, wakeup_write, output_read, ready_read):
            os.close(descriptor)
        become_program(options, output=output_write, ready=ready_write, go=go_read, run=run)
    # What else is open belongs to the program: its parent's modules may have opened it.
    close_descriptors(but={wakeup_read, wakeup_write, output_read, ready_read, go_write, *keep})

    output = Output(output_read, "output.log", options.log_limit)
    supervisor = Supervisor(program, output, wakeup_read)
    signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, supervisor.request_stop)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    word = os.read(ready_read, 1)
    if word != b"r":
        raise SystemExit((word + read_to_end(ready_read)).decode() or "the child has vanished")
    replace_file(
        "worker.json",
        f'{{"shim": {{"pid": {shim}, "started": {start_time(shim)}}}, '
        f'"program": {{"pid": {program}, "started": {start_time(program)}}}, '
        f'"cgroups": [{", ".join(quoted(cgroup) for cgroup in options.cgroups)}], '
        f'"warm": {"false" if run is None else "true"}}}\n',
    )
    os.write(go_write, b"g")
    os.close(go_write)
    failure = read_to_end(ready_read).decode()

    status = supervisor.run(options.cgroups)
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    code = os.WEXITSTATUS(status) if number is None else 128 + number
    oom = code != 0 and oom_kills(options.cgroups) > 0
    replace_file(
        "exit.json",
        f'{{"exit_code": {code}, "signal": {"null" if number is None else number}, '
        f'"oom": {"true" if oom else "false"}, "reason": {quoted(failure) if failure else "null"}, '
        f'"ended_at": {time.time():.3f}}}\n',
    )
    for cgroup in options.cgroups:
        try:
            os.rmdir(cgroup)
        except OSError as error:
            write_shim_log(f"{cgroup} is left: {error}")
    # Without the interpreter's own clean-up, which takes some milliseconds.
    os._exit(0)


if __name__ == "__main__":
    close_descriptors(but=set())
    supervise(Options(sys.argv[1:]))

"""The parent process of one worker: starts the program, records its end, leaves nothing behind.

Run as `python -I -S shim.py OPTIONS -- COMMAND...` by `launch`, in a session of its own, so that it
outlives the Temporal worker. It takes over three things:

- file descriptor 3, which carries the `flock` on the worker's folder: held as long as this process
  lives, whatever kills it; never inherited by the program;
- its environment, which is the program's, unchanged (the execution's token is in it, so it may
  stand neither on disk nor in the arguments);
- SIGTERM, which it passes on to the program once; after the deadline that `terminate.json` gives
  it kills all that is left, also when no caller waits for that any more.

`worker.json` is written before the program runs its first instruction, `exit.json` after the last
process of the worker is gone. A worker.json without exit.json and without the lock therefore means
that this process was killed; the kernel then kills the program (PR_SET_PDEATHSIG).

This process stays the server's user; the program becomes another one where that is possible
(`confine`). Nothing of the program's is ever run or loaded here.

Standard library only, and of that little: each import is paid at the start of every worker (json
and enum alone would double the time). It must run single-threaded: PR_SET_PDEATHSIG fires when the
*thread* that forked ends.
"""

# pathlib and contextlib are slow to import:
# ruff: noqa: PTH106, PTH120

import os
import resource
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from provisioners.process.programs import kernel
    from provisioners.process.programs.confine import Confinement
else:
    # A program: its neighbours are found beside it, and nowhere else (-I).
    sys.path.insert(0, os.path.dirname(__file__))
    import kernel
    from confine import Confinement
if TYPE_CHECKING:
    import signal
else:
    # `signal` is this module plus enums, which take longer to import than all of the above.
    import _signal as signal

DEFAULT_GRACE_SECONDS = 10.0
DRAIN_SECONDS = 1.0
"""How long output is still read after the last process; another process may hold a pipe's end."""


class Options:
    """What the command line says, in the order in which `launch` puts it there.

    Attributes:
        folder: the worker's folder, absolute; no worker can reach it.
        work: the program's current folder, absolute.
        log_limit: bytes of output that are kept.
        data_limit: RLIMIT_DATA of the program in bytes; 0 = none.
        cgroups: folders of the cgroups that the program joins; they exist, and are removed here.
        confinement: what keeps the program to itself.
        command: the program, an absolute path, and its arguments.
    """

    def __init__(self, arguments: list[str]) -> None:
        separator = arguments.index("--")
        self.folder, self.work, log_limit, data_limit, *words = arguments[:separator]
        self.log_limit = int(log_limit)
        self.data_limit = int(data_limit)
        self.cgroups = [word[1:] for word in words if word[0] == "c"]
        self.confinement = Confinement([word for word in words if word[0] != "c"])
        self.command = arguments[separator + 1 :]


class Output:
    """Copies the program's output to a file of limited size, and never lets the program block."""

    def __init__(self, source: int, path: str, limit: int) -> None:
        self.source = source
        self.room = limit
        self.limit = limit
        self.target = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        self.last = b"\n"
        self.keeping = True

    def copy(self) -> bool:
        """Copy what is there; False at the end of the output."""
        data = os.read(self.source, kernel.READ_BYTES)
        if not data:
            return False
        if self.keeping:
            try:
                self._keep(data)
            except OSError as error:
                # A full disk must not end the program: the rest of the output is dropped.
                self.keeping = False
                kernel.write_shim_log(f"output is no longer kept: {error}")
        return True

    def _keep(self, data: bytes) -> None:
        kept = data[: self.room]
        self.room -= len(kept)
        if kept:
            kernel.write_all(self.target, kept)
            self.last = kept[-1:]
        if len(kept) < len(data):
            self.keeping = False
            newline = "" if self.last == b"\n" else "\n"
            notice = f"output is cut here; the limit of {self.limit} bytes is reached"
            kernel.write_all(self.target, f"{newline}[control-plane: {notice}]\n".encode())


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
                self.ask_to_stop()
            if self.deadline is not None and time.monotonic() >= self.deadline:
                break
        self.kill_all(cgroups)
        end = time.monotonic() + DRAIN_SECONDS
        while self.output_open and time.monotonic() < end:
            self.wait(end - time.monotonic())
        return self.status or 0

    def ask_to_stop(self) -> None:
        """Pass SIGTERM on to the program's process group."""
        kernel.send_signal(-self.program, signal.SIGTERM)

    def wait(self, seconds: float | None) -> None:
        """Sleep until a signal, output, or the end of the time; then do what is due."""
        milliseconds = None if seconds is None else max(0, int(seconds * 1000) + 1)
        for descriptor, _ in self.poll.poll(milliseconds):
            if descriptor == self.wakeup:
                os.read(self.wakeup, 4096)
            elif descriptor != self.output.source:
                self.hear(descriptor)
            elif not self.output.copy():
                self.poll.unregister(self.output.source)
                self.output_open = False
        self.reap()

    def hear(self, descriptor: int) -> None:
        """Read from another source, for supervisors that have one."""

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
            kill_cgroups(cgroups)
            for pid in kernel.descendants(os.getpid()):
                kernel.send_signal(pid, signal.SIGKILL)
            self.wait(pause)
            pause = min(pause * 1.5, 0.5)


def kill_cgroups(cgroups: list[str]) -> None:
    """Kill what is in cgroups, or let it start nothing: it may fork faster than it is found."""
    for cgroup in cgroups:
        if not kernel.write_file(f"{cgroup}/cgroup.kill", "1"):
            kernel.write_file(f"{cgroup}/pids.max", "0")


def read_deadline() -> float:
    """Give the monotonic time after which the worker is killed."""
    import json  # noqa: PLC0415 - only paid by workers that are terminated

    now = time.monotonic()
    try:
        return min(float(json.loads(kernel.read_file("terminate.json"))["deadline"]), now + 86400)
    except (ValueError, KeyError, TypeError):
        # A SIGTERM that is not ours, e.g. of a machine that shuts down.
        return now + DEFAULT_GRACE_SECONDS


def become_program(options: Options, *, output: int, ready: int, go: int) -> None:
    """Be the child: get ready, wait for the word, run the program. Does not return."""
    try:
        signal.set_wakeup_fd(-1)
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGCHLD", "SIGPIPE", "SIGXFSZ"):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        os.close(kernel.LOCK_DESCRIPTOR)
        os.setsid()
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        if options.data_limit:
            resource.setrlimit(resource.RLIMIT_DATA, (options.data_limit, options.data_limit))
        # When the whole machine is short of memory, rather a program than a shim or a database.
        kernel.write_file("/proc/self/oom_score_adj", "500")
        kernel.join(options.cgroups)
        # The environment as it was passed in: Python may have added LC_CTYPE to its copy.
        environment = kernel.given_environment()
        # Standard input stays what it is for the shim: /dev/null.
        os.dup2(output, 1)
        os.dup2(output, 2)
        options.confinement.apply()
        # After the change of the user, which clears it.
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.chdir(options.work)
        os.write(ready, b"r")
        # End of file: the shim has died, perhaps before PR_SET_PDEATHSIG was set here.
        if os.read(go, 1) != b"g":
            os._exit(1)
        os.execve(options.command[0], options.command, environment)  # noqa: S606 - that is the job
    except OSError as error:
        os.write(ready, f"{options.command[0]} cannot be run: {error.strerror or error}".encode())
    finally:
        os._exit(127)


def record_start(options: Options, *, program: int, warm: bool) -> None:
    """Write worker.json: from here on the worker counts as started."""
    shim = os.getpid()
    kernel.replace_file(
        "worker.json",
        f'{{"shim": {{"pid": {shim}, "started": {kernel.start_time(shim)}}}, '
        f'"program": {{"pid": {program}, "started": {kernel.start_time(program)}}}, '
        f'"cgroups": [{", ".join(kernel.quoted(cgroup) for cgroup in options.cgroups)}], '
        f'"warm": {"true" if warm else "false"}}}\n',
    )


def record_end(options: Options, *, status: int, failure: str) -> None:
    """Write exit.json, when no process of the worker is left; remove its cgroups.

    Args:
        options: what the worker was like.
        status: the program's wait status.
        failure: why it could not be executed; "" if it could.
    """
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    code = os.WEXITSTATUS(status) if number is None else 128 + number
    oom = code != 0 and kernel.oom_kills(options.cgroups) > 0
    reason = kernel.quoted(failure) if failure else "null"
    kernel.replace_file(
        "exit.json",
        f'{{"exit_code": {code}, "signal": {"null" if number is None else number}, '
        f'"oom": {"true" if oom else "false"}, "reason": {reason}, '
        f'"ended_at": {time.time():.3f}}}\n',
    )
    for cgroup in options.cgroups:
        try:
            os.rmdir(cgroup)
        except OSError as error:
            kernel.write_shim_log(f"{cgroup} is left: {error}")


def handle_signals(supervisor: Supervisor, wakeup: int) -> None:
    """Have signals wake the supervisor through a pipe, and SIGTERM ask it to stop."""
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, supervisor.request_stop)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def supervise(options: Options) -> None:
    """Be the shim of one worker. Does not return, unless the program could not be started."""
    os.chdir(options.folder)
    os.set_inheritable(kernel.LOCK_DESCRIPTOR, False)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)

    wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    output_read, output_write = os.pipe()
    ready_read, ready_write = os.pipe()
    go_read, go_write = os.pipe()

    program = os.fork()
    if program == 0:
        # With these closed here, the death of the shim is the end of file in `go`.
        for descriptor in (go_write, wakeup_read, wakeup_write, output_read, ready_read):
            os.close(descriptor)
        become_program(options, output=output_write, ready=ready_write, go=go_read)
    for descriptor in (output_write, ready_write, go_read):
        os.close(descriptor)
    # Its environment holds the token, its memory the way to the worker's files.
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)

    output = Output(output_read, "output.log", options.log_limit)
    supervisor = Supervisor(program, output, wakeup_read)
    handle_signals(supervisor, wakeup_write)

    word = os.read(ready_read, 1)
    if word != b"r":
        failure = (word + kernel.read_to_end(ready_read)).decode()
        raise SystemExit(failure or "the child has vanished")
    record_start(options, program=program, warm=False)
    os.write(go_write, b"g")
    os.close(go_write)
    failure = kernel.read_to_end(ready_read).decode()

    status = supervisor.run(options.cgroups)
    record_end(options, status=status, failure=failure)
    # Without the interpreter's own clean-up, which takes some milliseconds.
    os._exit(0)


if __name__ == "__main__":
    kernel.close_descriptors(but=set())
    supervise(Options(sys.argv[1:]))

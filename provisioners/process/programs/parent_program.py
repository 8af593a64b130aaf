"""The warm parent: has imported the modules of one function, and forks workers.

Executed as `PYTHON FLAGS parent_program.py OPTIONS` by the keeper (`keeper`), where OPTIONS is a
JSON object. Descriptor 3 is one end of a pair of sockets. The keeper has the other end. What goes
over it:

1. The parent says `ready`, or why no worker can be forked.
2. For each worker it gets a byte and a fresh socket, whose other end the worker's shim has. It
   forks, and has no more to do with it. So neither the execution's token nor anything else of a
   worker is ever in this process.
3. The child becomes the worker's *reaper*. It says `ready` on the socket, and gets the worker's
   environment, the pipe for its output, and the doors to its cgroups. It forks the program, says
   its pid, and lets it run at the shim's word. Then it collects what ends below it, says how the
   program has ended, and waits to be killed. When the shim is gone it kills what it has, and ends.

This process and its children execute code of the user's: the import, and hooks at forks. They are
of the project's user, and have no access to what the shim writes. This process has the limits of
one worker, dies with the keeper, and must be single-threaded after the import: after a fork only
the thread that forked goes on, and locks that others held are held for ever. It has the environment
of a worker, but for what tells one execution from another.

Standard library only; it runs under the project's interpreter.
"""

# pathlib and contextlib are not imported, as everything here is found in the user's process:
# ruff: noqa: PTH116, PTH120, PTH208, SIM105, BLE001

import fcntl
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from provisioners.process.programs import kernel
    from provisioners.process.programs.messages import receive, refusal, send
else:
    sys.path.insert(0, os.path.dirname(__file__))
    import kernel
    from messages import receive, refusal, send

    # The user's modules may have the same names.
    del sys.path[0], sys.modules["kernel"], sys.modules["messages"]
if TYPE_CHECKING:
    from typing import Any, NoReturn

CONTROL_DESCRIPTOR = 3
OUTPUT_DESCRIPTOR = 4
"""The other end of the pipe that standard output is; a pipe, as it is for a worker."""
SPACE = "_CONTROL_PLANE_SPACE"
"""A long variable: its room in this process's memory later holds the worker's environment."""
MAX_IMPORT_OUTPUT = 2**20
"""What an import prints is repeated in each worker's output; one that prints more never ends."""


class Options:
    """What the argument says.

    Attributes:
        sdk_home: folder that holds the package `control_plane`.
        runner: path of the program that a cold worker runs.
        function: name of the function.
        project: folder of the user's code.
    """

    def __init__(self, text: str) -> None:
        values = json.loads(text)
        self.sdk_home: str = values["sdk_home"]
        self.runner: str = values["runner"]
        self.function: str = values["function"]
        self.project: str = values["project"]


class NotForkableError(Exception):
    """No worker can be forked from this process; the text says why."""

    lasting = True
    """Whether it would be so with another process."""


class ChangedError(NotForkableError):
    """The code is not what it was when it was imported: another process may import it."""

    lasting = False


class StateBeforeImport:
    """What there was before the import, to be compared with what there is after it."""

    def __init__(self) -> None:
        # Files get the time of the kernel's last tick.
        self.time = time.time_ns() - 20_000_000
        self.environment = dict(os.environ)
        self.modules = {
            module: dict(vars(module))
            for module in (os, select, time, resource, gc, sys.modules["_signal"])
        }

    def changes(self) -> "dict[str, str | None]":
        """Give what the import has done to the environment; None: it has removed a variable."""
        now = dict(os.environ)
        changed: dict[str, str | None] = {
            name: value for name, value in now.items() if self.environment.get(name) != value
        }
        changed.update((name, None) for name in self.environment if name not in now)
        return changed

    def check_modules(self) -> None:
        """Make sure that what the shim relies on is what it was (gevent replaces `os.fork`).

        Raises:
            NotForkableError: it is not.
        """
        for module, before in self.modules.items():
            for name, value in before.items():
                if not name.startswith("__") and getattr(module, name, None) is not value:
                    raise NotForkableError(f"the import has replaced {module.__name__}.{name}")


class Parent:
    """The parent, and what its children need of it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.control = socket.socket(fileno=CONTROL_DESCRIPTOR)
        self.control.set_inheritable(False)

    def get_ready(self) -> None:
        """Prepare for what the import prints; all limits were set by the keeper."""
        os.set_inheritable(OUTPUT_DESCRIPTOR, False)
        try:
            fcntl.fcntl(OUTPUT_DESCRIPTOR, fcntl.F_SETPIPE_SZ, MAX_IMPORT_OUTPUT)
        except OSError:
            pass  # the user has many pipes; then it is 64 KiB

    def load(self) -> None:
        """Import the runner and the user's module.

        Raises:
            NotForkableError: it went wrong, or it has left something that a fork would break.
        """
        options, own = self.options, os.getpid()
        sys.path.append(options.sdk_home)
        sys.argv[:] = [options.runner]
        self.runner = importlib.import_module("control_plane.runner.warm")
        self.before = StateBeforeImport()
        try:
            self.runner.load(options.function, folder=options.project)
        except BaseException as error:
            if os.getpid() != own:
                os._exit(1)
            raise NotForkableError(f"the import failed: {type(error).__name__}: {error}") from None
        if os.getpid() != own:
            # A child that the import has forked has come out of it, too.
            os._exit(0)
        self.before.check_modules()
        _check_threads()
        self.files = _files_below(options.project)
        self.check_files()
        self.runner.flush()
        self.output = self.read_output()
        self.changes = self.before.changes()
        self.collects = gc.isenabled()
        # Less is written to, and so copied, in the children.
        gc.collect()
        gc.freeze()
        settable = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
        self.handlers = {number: signal.getsignal(number) for number in settable}
        # Children that have ended are not waited for.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    def read_output(self) -> bytes:
        """Give what the import has printed."""
        os.set_blocking(OUTPUT_DESCRIPTOR, False)
        output = b""
        try:
            while piece := os.read(OUTPUT_DESCRIPTOR, MAX_IMPORT_OUTPUT):
                output += piece
        except BlockingIOError:
            pass
        os.close(OUTPUT_DESCRIPTOR)
        # What hooks print that run at each fork belongs to no worker.
        _open_at(1, os.devnull, os.O_WRONLY)
        _open_at(2, os.devnull, os.O_WRONLY)
        return output

    def check_files(self) -> None:
        """Make sure that the modules of the project are what was imported.

        Raises:
            ChangedError: one was changed since.
        """
        for path, seen in self.files.items():
            now = _stamp(path)
            # Also what was changed while it was being imported.
            if now != seen or seen[0] >= self.before.time:
                raise ChangedError(f"{path} has changed")

    def serve(self) -> "NoReturn":
        """Fork a child for each worker, until the keeper is gone."""
        while True:
            data, descriptors, _, _ = socket.recv_fds(self.control, 1, 1)
            if not data:
                os._exit(0)
            with socket.socket(fileno=descriptors[0]) as connection:
                try:
                    _check_threads()
                    self.check_files()
                    child = os.fork()
                except (NotForkableError, OSError) as error:
                    send(connection, refusal(error))
                    continue
                if child == 0:
                    Reaper(self, connection).run()


class Reaper:
    """The parent of one program: a child of the warm parent. Before its word nothing has run."""

    def __init__(self, parent: Parent, connection: socket.socket) -> None:
        self.parent = parent
        self.connection = connection
        self.wakeup, self.wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> "NoReturn":
        """Fork the program, and collect what ends, until the shim is gone or kills this process."""
        started = False
        try:
            gc.disable()
            os.setsid()
            mask = signal.pthread_sigmask(signal.SIG_SETMASK, [])
            self.handle_signals()
            self.parent.control.close()
            # Orphans of the program come here.
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
            hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
            resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
            send(self.connection, {"ready": True})
            message, descriptors = receive(self.connection)
            output, *doors = descriptors
            for door in doors:
                os.write(door, b"0")
                os.close(door)
            replace_environment(message["environment"])
            go_read, go_write = os.pipe()
            program = os.fork()
            if program == 0:
                self.connection.close()
                for descriptor in (go_write, self.wakeup, self.wakeup_write):
                    os.close(descriptor)
                self.become_program(message, mask, output=output, go=go_read)
            # What else is open belongs to the program: modules may have opened it.
            own = {self.connection.fileno(), self.wakeup, self.wakeup_write, go_write}
            for descriptor in {go_read, output} - own:
                os.close(descriptor)
            kernel.close_descriptors(but=own)
            send(self.connection, {"program": program})
            started = True
            if self.connection.recv(1) == b"g":
                os.write(go_write, b"g")
                os.close(go_write)
                self.collect(program)
        except BaseException as error:
            if not started:
                send(self.connection, refusal(error))
        finally:
            os._exit(1)

    def handle_signals(self) -> None:
        """Have the end of a child wake this process."""
        signal.set_wakeup_fd(self.wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def collect(self, program: int) -> None:
        """Collect what ends, and say so of the program; return when the shim is gone."""
        poll = select.poll()
        poll.register(self.wakeup, select.POLLIN)
        poll.register(self.connection.fileno(), select.POLLIN)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid = 0
            if pid == program:
                self.connection.sendall(struct.pack("!I", status))
            if pid:
                continue
            for descriptor, _ in poll.poll():
                if descriptor == self.wakeup:
                    os.read(self.wakeup, 4096)
                elif not self.connection.recv(1):
                    self.kill_all()
                    return

    def kill_all(self) -> None:
        """Kill what is below, until nothing is; the shim, which does that as a rule, is gone."""
        while True:
            for pid in kernel.descendants(os.getpid()):
                kernel.send_signal(pid, signal.SIGKILL)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return

    def become_program(
        self, message: "dict[str, Any]", mask: "set[Any]", *, output: int, go: int
    ) -> "NoReturn":
        """Be the program: wait for the word, run the function in the state the import has left."""
        parent = self.parent
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            if message["data_limit"]:
                limit = message["data_limit"]
                resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            os.chdir(message["work"])
            # End of file: the reaper has died, perhaps before PR_SET_PDEATHSIG was set here.
            if os.read(go, 1) != b"g":
                os._exit(1)
            os.close(go)
            for number, handler in parent.handlers.items():
                if handler is not None and signal.getsignal(number) != handler:
                    signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for name, value in parent.changes.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            tempfile = sys.modules.get("tempfile")
            if getattr(tempfile, "tempdir", None) == parent.before.environment["TMPDIR"]:
                # Found out once, and kept: the parent's.
                tempfile.tempdir = None  # type: ignore[union-attr] # it has the attribute
            if parent.collects:
                gc.enable()
            kernel.write_all(1, parent.output)
            parent.runner.run()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)


def replace_environment(environment: "dict[str, str]") -> None:
    """Give this process another environment, also as others see it in /proc.

    There it is how the processes of a worker are found whose shim was killed. The kernel shows the
    memory in which it put the environment when the program was executed, so that is written to. The
    process itself uses copies, once each variable was removed and set again.

    Raises:
        NotForkableError: there is not enough room.
    """
    import ctypes  # noqa: PLC0415 - `kernel` has imported it

    fields = kernel.stat_fields(os.getpid())
    # man 5 proc: env_start and env_end are the fields 50 and 51; these begin with the third.
    start, end = int(fields[47]), int(fields[48])
    block = b"".join(
        os.fsencode(name) + b"=" + os.fsencode(value) + b"\0" for name, value in environment.items()
    )
    if start == 0 or len(block) >= end - start:
        raise NotForkableError("the environment is too large for a warm start")
    # Added by the interpreter, so it is not in what we were given.
    kept = {name: os.environ[name] for name in ("LC_CTYPE",) if name in os.environ}
    os.environ.clear()
    os.environ.update(kept | environment)
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, block, len(block))


def _check_threads() -> None:
    count = len(os.listdir("/proc/self/task"))
    if count != 1:
        raise NotForkableError(
            f"{count - 1} thread{'s' if count > 2 else ''} started by the import would be missing "
            "in a forked process"
        )


def _files_below(folder: str) -> "dict[str, tuple[int, int, int]]":
    files: dict[str, tuple[int, int, int]] = {}
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        # What was installed is the business of who installed it.
        if (
            isinstance(path, str)
            and path.startswith(f"{folder}/")
            and not path.startswith(f"{folder}/.venv/")
        ):
            files[path] = _stamp(path)
    return files


def _stamp(path: str) -> "tuple[int, int, int]":
    try:
        stat = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def _open_at(descriptor: int, path: str, flags: int) -> None:
    opened = os.open(path, flags, 0o600)
    os.dup2(opened, descriptor)
    os.close(opened)


def main(argument: str) -> None:
    """Import, then fork until the end."""
    os.environ.pop(SPACE, None)
    kernel.close_descriptors(but={OUTPUT_DESCRIPTOR})
    parent = Parent(Options(argument))
    try:
        parent.get_ready()
        parent.load()
    except (NotForkableError, OSError) as error:
        # Also an import that writes the project's modules: it would do so again.
        send(parent.control, refusal(error) | {"lasting": True})
        os._exit(1)
    send(parent.control, {"ready": True})
    parent.serve()


if __name__ == "__main__":
    main(sys.argv[1])

"""The warm parent: has imported the modules of one function, and forks workers.

Run as `PYTHON FLAGS parent_program.py OPTIONS` by `parents`, where OPTIONS is a JSON
object (`Options`). Descriptor 3 is one end of a pair of sockets. The Temporal worker has the other
end, and no other process can reach it. What goes over it:

1. The parent says `ready`, or why no worker can be forked.
2. For each worker it gets a byte and a fresh socket. It forks, and has no more to do with it. So
   neither the execution's token nor anything else of a worker is ever in this process.
3. The child becomes the worker's shim. It leaves this process's cgroups, and says its pid on the
   socket. It gets the shim's arguments, the worker's environment, and the lock on the worker's
   folder. From then on it is like a shim that was executed: it says `ready` and goes on
   (`shim.supervise`), forks the program, and lets it run the function.

As the shim is what is forked here, it is the program's real parent, and all that holds for cold
workers holds too: the kernel kills the program with the shim, and the shim gets its exit status.

This process executes code of the user's: the import. It has the limits of one worker for that, dies
with the Temporal worker, and must be single-threaded afterwards: after a fork only the thread that
forked goes on, and locks that others held are held for ever. It has the environment of a worker,
but for what tells one execution from another.

Standard library only; it runs under the project's interpreter.
"""

# pathlib and contextlib are not imported, as everything here is found in the user's process:
# ruff: noqa: PTH116, PTH208, SIM105, BLE001

import fcntl
import gc
import importlib
import importlib.util
import json
import os
import resource
import select
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, NoReturn

CONTROL_DESCRIPTOR = 3
OUTPUT_DESCRIPTOR = 4
"""The other end of the pipe that standard output is; a pipe, as it is for a worker."""
SPACE = "_CONTROL_PLANE_SPACE"
"""A long variable: its room in this process's memory later holds the worker's environment."""
MAX_IMPORT_OUTPUT = 2**20
"""What an import prints is repeated in each worker's output; one that prints more never ends."""
MAX_MESSAGE = 4 * 2**20
MAX_ANSWER = 65536


class Options:
    """What the argument says.

    Attributes:
        shim: path of shim.
        sdk_home: folder that holds the package `control_plane`.
        runner: path of the program that a cold worker runs.
        function: name of the function.
        project: folder of the user's code.
        folder: this process's own folder, with `work` and `lock`.
        cgroups: cgroups that this process joins.
        outside: cgroups that the shims join.
        data_limit: RLIMIT_DATA in bytes; 0 = none.
        provisioner: pid of the parent of this process.
    """

    def __init__(self, text: str) -> None:
        values = json.loads(text)
        self.shim: str = values["shim"]
        self.sdk_home: str = values["sdk_home"]
        self.runner: str = values["runner"]
        self.function: str = values["function"]
        self.project: str = values["project"]
        self.folder: str = values["folder"]
        self.cgroups: list[str] = values["cgroups"]
        self.outside: list[str] = values["outside"]
        self.data_limit: int = values["data_limit"]
        self.provisioner: int = values["provisioner"]


class NotForkableError(Exception):
    """No worker can be forked from this process; the text says why."""


class ChangedError(NotForkableError):
    """The code is not what it was when it was imported: another process may import it."""


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

    def __init__(self, options: Options, shim: "ModuleType") -> None:
        self.options = options
        self.shim = shim
        self.control = socket.socket(fileno=CONTROL_DESCRIPTOR)
        self.control.set_inheritable(False)
        self.limits = resource.getrlimit(resource.RLIMIT_DATA)
        self.oom_score = shim.read_file("/proc/self/oom_score_adj").decode()

    def get_ready(self) -> None:
        """Take on the limits of a worker."""
        options, shim = self.options, self.shim
        shim.prctl(shim.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != options.provisioner:
            os._exit(1)
        shim.prctl(shim.PR_SET_NO_NEW_PRIVS, 1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if options.data_limit:
            # Only the soft limit, so that the shims can be without it again.
            resource.setrlimit(resource.RLIMIT_DATA, (options.data_limit, self.limits[1]))
        shim.write_file("/proc/self/oom_score_adj", "500")
        shim.join(options.cgroups)
        os.chdir(f"{options.folder}/work")
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
        """Fork a child for each worker, until the Temporal worker is gone."""
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
                    self.become_shim(connection)

    def become_shim(self, connection: socket.socket) -> "NoReturn":
        """Be the child: the shim of one worker. Before it says `ready`, nothing has run."""
        shim = self.shim
        accepted = False
        try:
            gc.disable()
            os.setsid()
            mask = signal.pthread_sigmask(signal.SIG_SETMASK, [])
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            shim.write_file("/proc/self/oom_score_adj", self.oom_score)
            resource.setrlimit(resource.RLIMIT_DATA, self.limits)
            shim.join(self.options.outside)
            # What the import has put into this process's folder stays while a worker may use it.
            in_use = os.open(f"{self.options.folder}/lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(in_use, fcntl.LOCK_SH)
            pid = os.getpid()
            send(connection, {"pid": pid, "started": shim.start_time(pid)})
            message, lock = receive(connection)
            os.dup2(lock, shim.LOCK_DESCRIPTOR)  # in place of the control socket
            os.close(lock)
            self.control.detach()
            worker = shim.Options(message["arguments"])
            _open_at(0, os.devnull, os.O_RDONLY)
            _open_at(1, os.devnull, os.O_WRONLY)
            _open_at(
                2, f"{worker.folder}/shim.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            )
            replace_environment(shim, message["environment"])
            accepted = True
            send(connection, {"ready": True})
            connection.close()
            run = lambda: self.become_program(mask, in_use)  # noqa: E731 - a function is no shorter
            shim.supervise(worker, run=run, keep=(in_use,))
        except BaseException as error:
            if accepted:
                shim.write_shim_log(str(error) or type(error).__name__)
            else:
                send(connection, refusal(error))
        finally:
            os._exit(1)

    def become_program(self, mask: "set[Any]", in_use: int) -> "NoReturn":
        """Be the child's child: run the function, in the state that the import has left."""
        try:
            os.close(in_use)
            for number, handler in self.handlers.items():
                if handler is not None and signal.getsignal(number) != handler:
                    signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for name, value in self.changes.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            tempfile = sys.modules.get("tempfile")
            if getattr(tempfile, "tempdir", None) == self.before.environment["TMPDIR"]:
                # Found out once, and kept: the parent's.
                tempfile.tempdir = None  # type: ignore[union-attr] # it has the attribute
            if self.collects:
                gc.enable()
            self.shim.write_all(1, self.output)
            self.runner.run()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)


def replace_environment(shim: "ModuleType", environment: "dict[str, str]") -> None:
    """Give this process another environment, also as others see it in /proc.

    There it is how the processes of a worker are found whose shim was killed. The kernel shows the
    memory in which it put the environment when the program was executed, so that is written to. The
    process itself uses copies, once each variable was removed and set again.

    Raises:
        NotForkableError: there is not enough room.
    """
    import ctypes  # noqa: PLC0415 - the shim has imported it

    fields = shim.stat_fields(os.getpid())
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


def refusal(error: BaseException) -> "dict[str, Any]":
    """Say why no worker is forked, and whether that would be so again."""
    # There may be room for another process later.
    lasting = not isinstance(error, (ChangedError, BlockingIOError))
    text = str(error) or type(error).__name__
    return {"refusal": text[:2000], "lasting": lasting}


def send(connection: socket.socket, content: "dict[str, Any]") -> None:
    """Send one JSON object as a line; a peer that is gone is no error here."""
    try:
        connection.sendall(json.dumps(content).encode() + b"\n")
    except OSError:
        pass


def receive(connection: socket.socket) -> "tuple[dict[str, Any], int]":
    """Read one JSON object, a line, with a descriptor beside its first byte.

    Raises:
        OSError: the other side has closed.
    """
    data, descriptors, _, _ = socket.recv_fds(connection, MAX_MESSAGE, 1)
    while data and not data.endswith(b"\n"):
        piece = connection.recv(MAX_MESSAGE)
        if not piece:
            break
        data += piece
    if not data.endswith(b"\n") or not descriptors:
        raise OSError("the Temporal worker has given up this start")
    return json.loads(data), descriptors[0]


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


def _load_shim(path: str) -> "ModuleType":
    spec = importlib.util.spec_from_file_location("_control_plane_shim", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(argument: str) -> None:
    """Import, then fork until the end."""
    os.environ.pop(SPACE, None)
    options = Options(argument)
    shim = _load_shim(options.shim)
    shim.close_descriptors(but={OUTPUT_DESCRIPTOR})
    parent = Parent(options, shim)
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

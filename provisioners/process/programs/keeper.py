"""The keeper of a warm parent: starts it, and is the shim of each worker that is forked from it.

Run as `python -I -S keeper.py` by `warm.parents`. A warm parent executes code of the user's, so
nothing that it forks can be trusted with a worker's files. The keeper executes none of it, and
takes what the parent says for a claim:

    Temporal worker -- keeper (the server's user)
                         |-- warm parent (the project's user, `parent_program`)
                         |     `-- reaper of worker 1 -- program of worker 1
                         `-- shim of worker 1 (the server's user, forked from the keeper)

Descriptor 3 is one end of a pair of sockets. The Temporal worker has the other end. What goes over
it:

1. The keeper gets its options. They are no arguments, which all users can read, and the parent's
   environment is not its own: by that the processes of a parent are found.
2. The keeper passes on what the parent says: `ready`, or why no worker can be forked.
3. For each worker it gets a byte and a fresh socket, and forks a shim that goes on with that. The
   shim says its pid, gets its options, the worker's environment and the lock on its folder, and
   asks the parent for a reaper, over a socket that only these two have. When the program may begin,
   the shim says `ready`.
4. The end of file is the end of the parent. The keeper goes on while one of its shims does.

A forked shim does all that an executed one does (`shim`), but for one thing: the program is no
child of its own. The reaper is its parent, gets its orphans, and tells how it has ended. A program
can kill its reaper, which is of the same user; what that leaves comes to the keeper, and is killed
here.

Standard library only.
"""

# pathlib and contextlib are slow to import:
# ruff: noqa: PTH120, SIM105

import json
import os
import resource
import select
import signal
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from provisioners.process.programs import kernel
    from provisioners.process.programs.confine import Confinement
    from provisioners.process.programs.messages import (
        MAX_ANSWER,
        MAX_MESSAGE,
        RefusedError,
        refusal,
        send,
    )
    from provisioners.process.programs.warm_shim import WarmStart
else:
    sys.path.insert(0, os.path.dirname(__file__))
    import kernel
    from confine import Confinement
    from messages import MAX_ANSWER, MAX_MESSAGE, RefusedError, refusal, send
    from warm_shim import WarmStart
if TYPE_CHECKING:
    from typing import NoReturn

CONTROL_DESCRIPTOR = 3
OUTPUT_DESCRIPTOR = 4
"""The read end of the pipe that the parent's output is: it reads what its import has printed."""


class Options:
    """The first message, a JSON object.

    Attributes:
        command: the warm parent's program and arguments.
        environment: its environment.
        folder: the parent's own folder, which holds its lock.
        work: its current folder.
        cgroups: cgroups that it joins.
        data_limit: its RLIMIT_DATA in bytes; 0 = none. Only the soft limit.
        confinement: what keeps it and all that it forks to themselves.
    """

    def __init__(self, message: bytes) -> None:
        values = json.loads(message)
        self.command: list[str] = values["command"]
        self.environment: dict[str, str] = values["environment"]
        self.folder: str = values["folder"]
        self.work: str = values["work"]
        self.cgroups: list[str] = values["cgroups"]
        self.data_limit: int = values["data_limit"]
        self.confinement = Confinement(values["confinement"])


class Keeper:
    """The keeper, until its last worker has ended."""

    def __init__(self) -> None:
        self.control = socket.socket(fileno=CONTROL_DESCRIPTOR)
        self.options = Options(self.control.recv(MAX_MESSAGE))
        self.parents_end, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.wakeup, self.wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.poll = select.poll()
        self.parent = 0
        self.open = True
        """Whether the Temporal worker wants the parent."""
        self.shims: dict[int, int] = {}
        """The pid of each shim, and of its reaper; 0 until that is known."""
        self.channels: dict[int, tuple[socket.socket, int]] = {}
        """By descriptor: the way to a shim, and its pid."""

    def run(self) -> "NoReturn":
        """Start the parent, and keep it and the workers."""
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        self.start_parent()
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        signal.set_wakeup_fd(self.wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self.control.setblocking(False)
        self.parents_end.setblocking(False)
        for source in (self.control.fileno(), self.parents_end.fileno(), self.wakeup):
            self.poll.register(source, select.POLLIN)
        while self.open or self.parent or self.shims:
            for descriptor, _ in self.poll.poll():
                if descriptor == self.wakeup:
                    os.read(self.wakeup, 4096)
                elif descriptor == CONTROL_DESCRIPTOR and self.open:
                    self.serve()
                elif descriptor == self.parents_end.fileno():
                    self.pass_on()
                else:
                    self.answer(descriptor)
            self.reap()
        os._exit(0)

    def start_parent(self) -> None:
        """Fork the process that becomes the parent."""
        keeper = os.getpid()
        self.parent = os.fork()
        if self.parent == 0:
            self.become_parent(keeper)
        self.theirs.close()
        os.close(OUTPUT_DESCRIPTOR)
        null = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(null, descriptor)
        os.close(null)

    def become_parent(self, keeper: int) -> "NoReturn":
        """Be the child: take on the limits of a worker, and execute the parent's program."""
        options = self.options
        try:
            os.setsid()
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
            hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
            if options.data_limit:
                # Only the soft limit, so that the reapers can be without it again.
                resource.setrlimit(resource.RLIMIT_DATA, (options.data_limit, hard))
            kernel.write_file("/proc/self/oom_score_adj", "500")
            kernel.join(options.cgroups)
            options.confinement.apply()
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != keeper:
                os._exit(1)
            os.chdir(options.work)
            os.dup2(self.theirs.fileno(), CONTROL_DESCRIPTOR)
            os.set_inheritable(OUTPUT_DESCRIPTOR, True)
            os.execve(options.command[0], options.command, options.environment)  # noqa: S606 - that is the job
        except OSError as error:
            send(self.theirs, refusal(RefusedError(f"no parent can be started: {error}")))
        finally:
            os._exit(1)

    def serve(self) -> None:
        """Fork a shim for a worker, or end the parent when the Temporal worker is gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self.control, 1, 1)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            self.poll.unregister(CONTROL_DESCRIPTOR)
            self.open = False
            self.end_parent()
            return
        own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection = socket.socket(fileno=descriptors[0])
        try:
            pid = os.fork()
        except OSError as error:
            send(connection, refusal(RefusedError(str(error), lasting=False)))
        else:
            if pid == 0:
                own.close()
                WarmStart(
                    connection,
                    theirs,
                    parent=self.parents_end,
                    parents_folder=self.options.folder,
                ).run()
            self.shims[pid] = 0
            own.setblocking(False)
            self.channels[own.fileno()] = (own, pid)
            self.poll.register(own.fileno(), select.POLLIN)
        connection.close()
        theirs.close()

    def pass_on(self) -> None:
        """Pass on what the parent says of its import; afterwards it has no more to say."""
        self.poll.unregister(self.parents_end.fileno())
        try:
            data = self.parents_end.recv(MAX_ANSWER)
            if data:
                self.control.send(data)
        except OSError:
            pass  # its end, or the Temporal worker's, is seen elsewhere

    def answer(self, descriptor: int) -> None:
        """Hear which reaper a shim has, or that it has lost it (0)."""
        channel, pid = self.channels[descriptor]
        try:
            data = channel.recv(64)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.poll.unregister(descriptor)
            del self.channels[descriptor]
            channel.close()
            return
        if pid in self.shims:
            self.shims[pid] = int(data)
            if self.shims[pid] == 0:
                self.kill_strangers()
        try:
            channel.send(b"done")
        except OSError:
            pass

    def end_parent(self) -> None:
        """Kill the parent, and what its import has left running."""
        if self.parent:
            kernel.send_signal(self.parent, signal.SIGKILL)
        else:
            self.kill_strangers()

    def reap(self) -> None:
        """Collect ended children."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self.shims.pop(pid, None)
            if pid == self.parent:
                self.parent = 0
                self.kill_strangers()
                # The Temporal worker may take away the parent's folder now.
                self.control.close()
                if self.open:
                    self.poll.unregister(CONTROL_DESCRIPTOR)
                    self.open = False

    def kill_strangers(self) -> None:
        """Kill the children that are neither the parent nor shims nor reapers, and what they fork.

        Orphans come here: of an import, or of a worker that has killed its reaper. Each round finds
        the children of those that the one before has killed.
        """
        known = {self.parent, *self.shims, *self.shims.values()}
        while strangers := [pid for pid in kernel.children_of(os.getpid()) if pid not in known]:
            for pid in strangers:
                for below in kernel.descendants(pid):
                    kernel.send_signal(below, signal.SIGKILL)
                kernel.send_signal(pid, signal.SIGKILL)
                # Only until it is dead: nothing can be in the way of that.
                try:
                    os.waitpid(pid, 0)
                except ChildProcessError:
                    pass


if __name__ == "__main__":
    kernel.close_descriptors(but={OUTPUT_DESCRIPTOR})
    Keeper().run()

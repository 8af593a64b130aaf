"""The shim of a warm worker: forked by the keeper, while its program is forked by the warm parent.

How it gets there, and who the others are, says `keeper`. Standard library only.
"""

# Whatever goes wrong in a shim is told, and ends it:
# ruff: noqa: BLE001

import fcntl
import json
import os
import select
import signal
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from provisioners.process.programs import kernel, shim
    from provisioners.process.programs.messages import (
        MAX_ANSWER,
        RefusedError,
        answer_of,
        checked,
        receive,
        refusal,
        send,
    )
else:
    import kernel
    import shim
    from messages import MAX_ANSWER, RefusedError, answer_of, checked, receive, refusal, send
if TYPE_CHECKING:
    from typing import NoReturn

_KEEPER_SECONDS = 2.0
"""For so long the keeper is waited for, which may be killing orphans."""


class WarmStart:
    """The start of one worker, in the process that is its shim."""

    def __init__(
        self,
        connection: socket.socket,
        channel: socket.socket,
        *,
        parent: socket.socket,
        parents_folder: str,
    ) -> None:
        self.connection = connection
        """To the Temporal worker."""
        self.channel = channel
        """To the keeper."""
        self.parent = parent
        self.parents_folder = parents_folder

    def run(self) -> "NoReturn":
        """Be the shim, to the worker's end."""
        accepted = False
        try:
            connection = self.connection
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            kept = {end.fileno() for end in (connection, self.channel, self.parent)}
            # What the import has put into the parent's folder stays while a worker may use it.
            in_use = os.open(f"{self.parents_folder}/lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(in_use, fcntl.LOCK_SH)
            kernel.close_descriptors(but=kept | {in_use})
            # While it is forked, the rest is received.
            reaper = self.ask_for_reaper()
            pid = os.getpid()
            send(connection, {"pid": pid, "started": kernel.start_time(pid)})
            message, [lock] = receive(connection)
            os.dup2(lock, kernel.LOCK_DESCRIPTOR)  # in place of the control socket
            os.close(lock)
            options = shim.Options(message["arguments"])
            os.chdir(options.folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW
            log = os.open("shim.log", flags, 0o600)
            os.dup2(log, 2)
            os.close(log)
            supervisor = self.get_program(reaper, options, message["environment"])
            accepted = True
            supervisor.go(options)
            send(connection, {"ready": True})
            connection.close()
            status = supervisor.run(options.cgroups)
            shim.record_end(options, status=status, failure="")
        except BaseException as error:
            if accepted:
                kernel.write_shim_log(str(error) or type(error).__name__)
            else:
                send(self.connection, refusal(error))
        finally:
            os._exit(1)

    def ask_for_reaper(self) -> socket.socket:
        """Ask the parent for a reaper; give the way to it, on which it speaks first.

        Raises:
            OSError: the parent has ended.
        """
        own, theirs = socket.socketpair()
        own.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with theirs:
            socket.send_fds(self.parent, [b"w"], [theirs.fileno()], socket.MSG_DONTWAIT)
        self.parent.close()
        return own

    def get_program(
        self, own: socket.socket, options: shim.Options, environment: dict[str, str]
    ) -> "WarmSupervisor":
        """Give the reaper what the worker needs; get the program, which waits.

        Raises:
            RefusedError: there is none.
            OSError: the reaper has ended.
        """
        reaper = reaper_of(own)
        # The keeper kills what it does not know, when the parent ends.
        tell(self.channel, reaper)
        output_read, output_write = os.pipe()
        doors = [kernel.open_door(cgroup) for cgroup in options.cgroups]
        content = {
            "environment": environment,
            "work": options.work,
            "data_limit": options.data_limit,
        }
        data = json.dumps(content).encode() + b"\n"
        sent = socket.send_fds(own, [data], [output_write, *doors])
        # Not nothing, which is an error when it has read all and has gone on.
        if data[sent:]:
            own.sendall(data[sent:])
        for descriptor in (output_write, *doors):
            os.close(descriptor)
        program = answer_of(own)["program"]
        if type(program) is not int or kernel.parent_of(program) != reaper:
            raise RefusedError("the reaper names a program that is not its child")
        output = shim.Output(output_read, "output.log", options.log_limit)
        wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        supervisor = WarmSupervisor(
            program, output, wakeup_read, connection=own, reaper=reaper, channel=self.channel
        )
        # Only root can put a process into another cgroup.
        supervisor.is_sealed = bool(options.cgroups) and options.confinement.uid != 0
        shim.handle_signals(supervisor, wakeup_write)
        return supervisor


class WarmSupervisor(shim.Supervisor):
    """Follows a program whose parent is its reaper."""

    def __init__(
        self,
        program: int,
        output: shim.Output,
        wakeup: int,
        *,
        connection: socket.socket,
        reaper: int,
        channel: socket.socket,
    ) -> None:
        super().__init__(program, output, wakeup)
        self.connection = connection
        self.reaper = reaper
        self.pidfd = os.pidfd_open(reaper)
        """Readable when the reaper has ended."""
        self.reaper_is_gone = False
        self.is_sealed = False
        """Whether all processes of the worker are in its cgroups."""
        self.program_started = kernel.start_time(program)
        self.channel = channel
        for source in (connection.fileno(), self.pidfd):
            self.poll.register(source, select.POLLIN)

    def go(self, options: shim.Options) -> None:
        """Let the program begin."""
        shim.record_start(options, program=self.program, warm=True)
        self.connection.sendall(b"g")
        self.connection.setblocking(False)

    def hear(self, descriptor: int) -> None:
        """Hear how the program has ended, or that the reaper is gone."""
        if descriptor == self.pidfd:
            self.poll.unregister(descriptor)
            self.reaper_is_gone = True
            if self.status is None:
                # It was killed: by the kernel, with the program, or by the program.
                self.status = int(signal.SIGKILL)
            return
        try:
            data = self.connection.recv(4)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if len(data) == 4:
            self.status = struct.unpack("!I", data)[0] & 0xFFFF
        else:
            self.poll.unregister(descriptor)

    def reap(self) -> None:
        """Nothing: this process has no children."""

    def ask_to_stop(self) -> None:
        """Pass SIGTERM on, unless the pid may be another's by now."""
        if kernel.is_alive(self.program, self.program_started):
            super().ask_to_stop()

    def kill_all(self, cgroups: list[str]) -> None:
        """Kill the program's processes, and then their reaper."""
        pause = 0.01
        while not self.reaper_is_gone:
            shim.kill_cgroups(cgroups)
            for pid in self.below_reaper(cgroups) or [self.reaper]:
                kernel.send_signal(pid, signal.SIGKILL)
            self.wait(pause)
            pause = min(pause * 1.5, 0.5)
        if not self.is_sealed:
            # Orphans of a reaper that others have killed are the keeper's children.
            tell(self.channel, 0)
        while pids := [pid for pid in kernel.processes_in(cgroups) if kernel.is_alive(pid)]:
            for pid in pids:
                kernel.send_signal(pid, signal.SIGKILL)
            self.wait(pause)

    def below_reaper(self, cgroups: list[str]) -> list[int]:
        """List the processes of the worker, without its reaper."""
        if self.is_sealed:
            # Without a look at all processes of the machine.
            found = [pid for pid in kernel.processes_in(cgroups) if pid != self.reaper]
        else:
            found = kernel.descendants(self.reaper)
        return [pid for pid in found if kernel.is_alive(pid)]


def tell(channel: socket.socket, reaper: int) -> None:
    """Tell the keeper of a reaper, or that there is none any more (0), and wait until it has heard.

    When the keeper was killed, nothing is there to be told.
    """
    try:
        channel.settimeout(_KEEPER_SECONDS)
        channel.send(b"%d" % reaper)
        channel.recv(64)
    except OSError:
        pass


def reaper_of(connection: socket.socket) -> int:
    """Wait for the first word of a reaper; give its pid, which the kernel has vouched for.

    Raises:
        RefusedError: the parent refuses to fork.
        OSError: it has ended.
    """
    size = struct.calcsize("3i")
    data, ancillary, _, _ = connection.recvmsg(MAX_ANSWER, socket.CMSG_SPACE(size))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
    checked(data)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid: int = struct.unpack("3i", content[:size])[0]
            return pid
    raise ConnectionResetError("it has ended")

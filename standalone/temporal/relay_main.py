"""What runs Temporal in a network of its own, and relays one Unix socket to it.

`python -I -S relay_main.py DOOR CREDENTIAL READY PROGRAM ARGUMENT...`, where the first three are
numbers of open files: a listening Unix socket, a pipe to read the credential from, and a pipe to
answer on. The answer is `started PID`, or `refused TEXT` where the machine gives no network.

The process makes a network namespace with nothing but a loopback interface, and starts the program
in it. So no port of the program can be reached from anywhere else. Each connection to the socket
begins with the head of an HTTP request that carries the credential: a CONNECT leads to Temporal's
front end, anything else to its web UI.

This is a program of its own, with one thread and nothing but the standard library: only a process
with one thread may make a user namespace, and the least that holds the way to Temporal is best.
"""

import ctypes
import fcntl
import hmac
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

FRONT_END_PORT = 7233
UI_PORT = 8233
"""Where the program listens. In a network of its own every port is free."""

MOST_UNKNOWN = 32
"""Connections that have not shown the credential. One more, and the oldest of them is closed."""
UNKNOWN_SECONDS = 10.0
"""How long such a connection may last."""
MOST_HEAD_BYTES = 65_536

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_LOOPBACK = "127.0.0.1"
_BUFFER_BYTES = 1 << 18
_END_OF_HEAD = b"\r\n\r\n"
_REFUSAL = (
    b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: int) -> None:
    function: Callable[..., int] = getattr(_libc, name)
    if function(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def enter_network() -> None:
    """Move this process to a new network namespace whose loopback interface is up.

    Root needs nothing else. Another user gets a user namespace too, in which the only user and the
    only group keep their numbers.

    Raises:
        OSError: this machine does not allow it.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        _call("unshare", _CLONE_NEWNET)
    except PermissionError:
        _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNET)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib takes 5 ms to import
                file.write(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies."""
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


class End:
    """One of two connected sockets; what one receives goes out at the other."""

    other: "End"

    def __init__(self, connection: socket.socket, *, unsent: bytes = b"") -> None:
        self.socket = connection
        self.number = connection.fileno()
        self.unsent = unsent
        """What the other side has received and this one has not sent yet."""
        self.reads = True
        """Whether there is more to receive, and the other side can take it."""
        self.has_ended = False
        """Whether its peer sends no more."""
        self.watched = 0
        """For which events epoll watches it."""


class Unknown:
    """A connection that has not shown the credential."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.head = b""
        self.until = time.monotonic() + UNKNOWN_SECONDS


class Relay:
    """All connections, in one epoll. A slow reader stops its writer.

    Args:
        door: the listening Unix socket.
        credential: what the value of Proxy-Authorization must be.
    """

    def __init__(self, door: socket.socket, credential: bytes) -> None:
        self._door = door
        self._credential = credential
        self._epoll = select.epoll()
        self._unknown: dict[int, Unknown] = {}
        """By the number of the open file, the oldest first."""
        self._ends: dict[int, End] = {}
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        door.setblocking(False)
        self._epoll.register(door.fileno(), select.EPOLLIN)

    def run(self) -> None:
        """Relay for ever."""
        while True:
            timeout = None
            if self._unknown:
                oldest = next(iter(self._unknown.values()))
                timeout = max(0.0, oldest.until - time.monotonic())
            for number, events in self._epoll.poll(timeout):
                if number == self._door.fileno():
                    self._accept()
                elif number in self._unknown:
                    self._read_head(number)
                elif number in self._ends:
                    self._move(self._ends[number], events)
            while self._unknown:
                number, oldest = next(iter(self._unknown.items()))
                if oldest.until > time.monotonic():
                    break
                self._forget(number).close()

    def _accept(self) -> None:
        try:
            connection, _ = self._door.accept()
        except BlockingIOError:
            return
        except OSError:
            # No file is left. Those that wait hold some, and are worth less than one that comes.
            if self._unknown:
                self._forget(next(iter(self._unknown))).close()
            else:
                time.sleep(0.01)
            return
        connection.setblocking(False)
        if len(self._unknown) == MOST_UNKNOWN:
            self._forget(next(iter(self._unknown))).close()
        self._unknown[connection.fileno()] = Unknown(connection)
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def _forget(self, number: int) -> socket.socket:
        self._epoll.unregister(number)
        return self._unknown.pop(number).socket

    def _read_head(self, number: int) -> None:
        unknown = self._unknown[number]
        try:
            piece = unknown.socket.recv(MOST_HEAD_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        unknown.head += piece
        if piece and _END_OF_HEAD not in unknown.head and len(unknown.head) < MOST_HEAD_BYTES:
            return
        connection = self._forget(number)
        head, _, rest = unknown.head.partition(_END_OF_HEAD)
        if not self._is_known(head):
            with suppress(OSError):
                connection.send(_REFUSAL)
            connection.close()
        elif head.startswith(b"CONNECT "):
            with suppress(OSError):
                connection.send(b"HTTP/1.1 200 OK" + _END_OF_HEAD)
            self._pair(connection, FRONT_END_PORT, rest)
        else:
            self._pair(connection, UI_PORT, unknown.head)

    def _is_known(self, head: bytes) -> bool:
        lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
        header = b"proxy-authorization"
        given = [value.strip() for name, _, value in lines if name.lower() == header]
        # Two of them would be read in two ways.
        return len(given) == 1 and hmac.compare_digest(given[0], self._credential)

    def _pair(self, client: socket.socket, port: int, received: bytes) -> None:
        server = socket.socket()
        server.setblocking(False)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(BlockingIOError):
            server.connect((_LOOPBACK, port))
        one, two = End(client), End(server, unsent=received)
        one.other, two.other = two, one
        for end in (one, two):
            self._ends[end.number] = end
            self._watch(end)

    def _watch(self, end: End) -> None:
        """Have epoll watch for what is wanted now; where that is nothing, not for an error either.

        An error cannot be masked, and would be told again and again.
        """
        wanted = select.EPOLLIN * end.reads | select.EPOLLOUT * bool(end.unsent)
        if wanted == end.watched:
            return
        if not end.watched:
            self._epoll.register(end.number, wanted)
        elif wanted:
            self._epoll.modify(end.number, wanted)
        else:
            self._epoll.unregister(end.number)
        end.watched = wanted

    def _move(self, end: End, events: int) -> None:
        try:
            if end.unsent and events & ~select.EPOLLIN:
                self._send_rest(end)
            if end.reads and events & ~select.EPOLLOUT:
                self._receive(end)
        except BlockingIOError:
            return
        except OSError:
            self._close(end)

    def _send_rest(self, end: End) -> None:
        end.unsent = end.unsent[end.socket.send(end.unsent) :]
        if not end.unsent:
            end.other.reads = not end.other.has_ended
            self._watch(end.other)
            if end.other.has_ended:
                end.socket.shutdown(socket.SHUT_WR)
        self._watch(end)
        self._close_if_done(end)

    def _receive(self, end: End) -> None:
        count = end.socket.recv_into(self._buffer)
        other = end.other
        if count == 0:
            end.has_ended, end.reads = True, False
            if not other.unsent:
                other.socket.shutdown(socket.SHUT_WR)
            self._watch(end)
            self._close_if_done(end)
            return
        try:
            sent = 0 if other.unsent else other.socket.send(self._buffer[:count])
        except BlockingIOError:
            sent = 0
        if sent < count:
            other.unsent += bytes(self._buffer[sent:count])
            end.reads = False
            self._watch(end)
            self._watch(other)

    def _close_if_done(self, end: End) -> None:
        both = (end, end.other)
        if all(each.has_ended for each in both) and not any(each.unsent for each in both):
            self._close(end)

    def _close(self, end: End) -> None:
        for each in (end, end.other):
            if each.watched:
                self._epoll.unregister(each.number)
            del self._ends[each.number]
            each.socket.close()


def _start(program: list[str], *, own: tuple[int, ...]) -> int:
    """Start the program as our child, which dies with us; gives its pid."""
    me = os.getpid()
    child = os.fork()
    if child != 0:
        return child
    die_with(me)
    for number in own:
        os.close(number)
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        os.execv(program[0], program)  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(2, f"cannot run {program[0]}: {error.strerror}\n".encode())
        os._exit(1)


def _end_as(status: int) -> None:
    """End this process as a child has ended."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        with suppress(OSError):
            # SIGKILL and SIGSTOP have no handler to set.
            signal.signal(-code, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), -code)
    os._exit(code)


def main(door: int, credential: int, ready: int, program: list[str]) -> None:
    """Be the relay until the program ends; then end as it did."""
    parent = os.getppid()
    with os.fdopen(credential, "rb") as pipe:
        expected = pipe.read()
    try:
        enter_network()
    except OSError as error:
        os.write(ready, f"refused {error.strerror}".encode())
        sys.exit(1)
    # The kernel forgets the setting of the program before when a user namespace is entered.
    die_with(parent)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    child = _start(program, own=(door, ready))
    # What holds the credential is nobody's to read, also not for this user's other programs.
    _call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)

    def pass_on(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    def ended(_number: int, _frame: FrameType | None) -> None:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            _end_as(status)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGCHLD, ended)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.write(ready, f"started {child}".encode())
    os.close(ready)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, signal.SIGTERM})
    Relay(socket.socket(fileno=door), expected).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])

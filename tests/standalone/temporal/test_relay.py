"""The relay by itself, with a program behind it that sends back what it gets."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from standalone.servers.child import Child, wait_until
from standalone.servers.ownership import start_time
from standalone.temporal import relay_main

CREDENTIAL = b"Basic Y29udHJvbC1wbGFuZTpzZWNyZXQ="
KNOWN = b"Proxy-Authorization: " + CREDENTIAL + b"\r\n"
PEER = Path(__file__).with_name("peer.py")


class Relayed:
    """A relay with its program, and connections to it."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.path = folder / "relay.sock"
        self.log = folder / "log"
        with ExitStack() as ours:
            door = ours.enter_context(closing(socket.socket(socket.AF_UNIX)))
            door.bind(str(self.path))
            door.listen(64)
            credential, answer = os.pipe(), os.pipe()
            for number in (credential[0], answer[0]):
                ours.callback(os.close, number)
            os.write(credential[1], CREDENTIAL)
            os.close(credential[1])
            self.child = Child.start(
                [
                    *(sys.executable, "-I", "-S", relay_main.__file__),
                    *map(str, (door.fileno(), credential[0], answer[1])),
                    *(sys.executable, "-I", "-S", str(PEER), mode),
                ],
                log=self.log,
                death_signal=signal.SIGKILL,
                keep_open=[door.fileno(), credential[0], answer[1]],
            )
            os.close(answer[1])
            word, _, pid = os.read(answer[0], 1000).decode().partition(" ")
        assert word == "started", self.log.read_text()
        self.pid = int(pid)
        assert wait_until(lambda: "listens" in self.log.read_text(), timeout=60)
        self.connections = ExitStack()

    def connect(self, first: bytes = b"") -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        self.connections.enter_context(closing(connection))
        connection.settimeout(60)
        connection.connect(str(self.path))
        connection.sendall(first)
        return connection

    def tunnel(self) -> socket.socket:
        """A connection to the front end, on which nothing was sent yet."""
        connection = self.connect(b"CONNECT temporal:7233 HTTP/1.1\r\n" + KNOWN + b"\r\n")
        expected = b"HTTP/1.1 200 OK\r\n\r\n7233 "
        assert read(connection, len(expected)) == expected
        return connection


def read(connection: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count and (piece := connection.recv(count - len(got))):
        got += piece
    return got


def read_all(connection: socket.socket) -> bytes:
    got = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            got += piece
    return got


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Callable[[str], Relayed]]:
    started: list[Relayed] = []

    def start(mode: str) -> Relayed:
        started.append(Relayed(tmp_path, mode))
        return started[-1]

    yield start
    for each in started:
        each.connections.close()
        each.child.stop()


@pytest.mark.parametrize(
    "head",
    [
        b"CONNECT temporal:7233 HTTP/1.1\r\n\r\n",
        b"CONNECT temporal:7233 HTTP/1.1\r\nProxy-Authorization: Basic wrong\r\n\r\n",
        b"CONNECT temporal:7233 HTTP/1.1\r\n" + KNOWN * 2 + b"\r\n",
        b"CONNECT temporal:7233 HTTP/1.1\r\n" + KNOWN + b"Proxy-Authorization: other\r\n\r\n",
        b"CONNECT temporal:7233 HTTP/1.1\r\nAuthorization: " + CREDENTIAL + b"\r\n\r\n",
        b"CONNECT temporal:7233 HTTP/1.1\r\n\r\n" + KNOWN + b"\r\n",
        KNOWN + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: temporal\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"x" * (relay_main.MOST_HEAD_BYTES + 1),
    ],
    ids=[
        *("no credential", "a wrong one", "two", "two different ones", "in another header"),
        *("after the head", "in place of the first line", "a browser", "HTTP/2", "without end"),
    ],
)
def test_who_does_not_show_the_credential_is_refused(
    relay: Callable[[str], Relayed], head: bytes
) -> None:
    connection = relay("echo").connect()
    # The relay may close while it is still being sent.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(head)
    answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 407 ") or answer == b""
    assert b"7233" not in answer


def test_a_connect_leads_to_the_front_end_and_all_else_to_the_ui(
    relay: Callable[[str], Relayed],
) -> None:
    relayed = relay("echo")
    tunnel = relayed.connect(b"CONNECT temporal:7233 HTTP/1.1\r\n" + KNOWN + b"\r\nearly")
    tunnel.shutdown(socket.SHUT_WR)
    assert read_all(tunnel) == b"HTTP/1.1 200 OK\r\n\r\n7233 early end"
    request = (
        b"GET / HTTP/1.1\r\n" + KNOWN.lower().replace(CREDENTIAL.lower(), CREDENTIAL) + b"\r\n"
    )
    ui = relayed.connect(request)
    ui.shutdown(socket.SHUT_WR)
    assert read_all(ui) == b"8233 " + request + b" end"


def test_each_way_ends_by_itself_and_a_slow_reader_loses_nothing(
    relay: Callable[[str], Relayed],
) -> None:
    """More than all buffers hold comes back, though it is read only once all of it was sent."""
    tunnel = relay("echo").tunnel()
    sent = os.urandom(8 * 1024 * 1024)

    def send() -> None:
        tunnel.sendall(sent)
        tunnel.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    # It waits for us: nobody reads, and every buffer on the way is full.
    sender.join(timeout=0.5)
    assert read_all(tunnel) == sent + b" end"
    sender.join()


def test_a_reader_that_has_stopped_stops_its_own_writer_alone(
    relay: Callable[[str], Relayed],
) -> None:
    relayed = relay("echo")
    stuck, other = relayed.tunnel(), relayed.tunnel()
    stuck.setblocking(False)
    while True:
        try:
            stuck.send(b"x" * 65536)
        except BlockingIOError:
            break
    other.sendall(b"goes on")
    assert read(other, 7) == b"goes on"


def test_connections_without_the_credential_keep_nobody_out(
    relay: Callable[[str], Relayed],
) -> None:
    relayed = relay("echo")
    tunnel = relayed.tunnel()
    silent = [relayed.connect() for _ in range(relay_main.MOST_UNKNOWN + 20)]
    later = relayed.tunnel()
    for connection in (tunnel, later):
        connection.sendall(b"good")
        assert read(connection, 4) == b"good"
    assert read_all(silent[0]) == b""


def test_a_connection_that_says_nothing_is_closed(relay: Callable[[str], Relayed]) -> None:
    silent = relay("echo").connect(b"CONNECT ")
    assert read_all(silent) == b""


def test_the_relay_ends_as_its_program(relay: Callable[[str], Relayed]) -> None:
    relayed = relay("exit")
    relayed.connect(b"CONNECT temporal:7233 HTTP/1.1\r\n" + KNOWN + b"\r\n")
    assert relayed.child.wait(60) == 7


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_the_relay_ends_by_the_signal_of_its_program(
    relay: Callable[[str], Relayed], number: signal.Signals
) -> None:
    relayed = relay("echo")
    os.kill(relayed.pid, number)
    assert relayed.child.wait(60) == -number


def test_a_signal_to_stop_is_handed_on(relay: Callable[[str], Relayed]) -> None:
    relayed = relay("echo")
    relayed.child.send(signal.SIGTERM)
    assert relayed.child.wait(60) == -signal.SIGTERM
    assert start_time(relayed.pid) is None


def test_the_program_does_not_outlive_the_relay(relay: Callable[[str], Relayed]) -> None:
    relayed = relay("echo")
    relayed.child.send(signal.SIGKILL)
    assert wait_until(lambda: start_time(relayed.pid) is None, timeout=60)


def test_the_program_gets_no_blocked_signals(relay: Callable[[str], Relayed]) -> None:
    status = Path(f"/proc/{relay('echo').pid}/status").read_text()
    assert "\nSigBlk:\t0000000000000000\n" in status

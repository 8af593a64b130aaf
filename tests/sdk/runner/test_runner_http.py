"""The runner's own HTTP: each form of an answer, and what is none."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from control_plane.runner.http11 import Connection, ProtocolError, Response

from tests.support.certificates import make_certificate, needs_openssl

OK = b"HTTP/1.1 200 OK\r\n"
Serve = Callable[..., int]


def _read_request(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(65_536)
        if not part:
            return received
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


class Server:
    """Answers each request of one connection with the next of some bytes, then closes it."""

    def __init__(self, *answers: bytes, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self._answers = answers
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener, ExitStack() as stack:
            connection, _ = self._listener.accept()
            stack.callback(connection.close)
            if self._context is not None:
                try:
                    connection = self._context.wrap_socket(connection, server_side=True)
                except OSError:
                    return
                stack.callback(connection.close)
            for answer in self._answers:
                self.requests.append(_read_request(connection))
                connection.sendall(answer)

    def end(self) -> None:
        self._thread.join(30)


@pytest.fixture
def connect() -> Iterator[Callable[..., tuple[Connection, Server]]]:
    with ExitStack() as stack:

        def make(*answers: bytes) -> tuple[Connection, Server]:
            server = Server(*answers)
            stack.callback(server.end)
            connection = Connection(host="127.0.0.1", port=server.port, tls=False, timeout=30)
            stack.callback(connection.close)
            connection.connect()
            return connection, server

        yield make


Connect = Callable[..., tuple[Connection, Server]]


def post(connection: Connection, body: bytes = b"{}") -> Response:
    return connection.request("POST", "/a%20b", {"Accept": "application/json"}, body)


def test_requests_share_a_connection(connect: Connect) -> None:
    connection, server = connect(
        OK + b"Content-Length: 3\r\nX-Kind:  a \r\n\r\none",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nConnection: close\r\n\r\n",
    )
    first = post(connection, "ä".encode() * 100_000)
    assert (first.status, first.body, first.headers["x-kind"]) == (200, b"one", "a")
    assert (post(connection).status, post(connection).status) == (204, 404)
    assert connection.socket is None, "the server has said that it closes"
    host = f"Host: 127.0.0.1:{server.port}\r\n".encode()
    accept = b"Accept: application/json\r\n"
    assert server.requests[1] == (
        b"POST /a%20b HTTP/1.1\r\n" + host + accept + b"Content-Length: 2\r\n\r\n{}"
    )
    assert server.requests[0].endswith("ä".encode() * 100_000)


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nTrailer: t\r\n\r\n",
        OK + b"\r\nabc",
        b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200\nContent-Length: 3\n\nabc",
    ],
    ids=["chunks", "until the end", "HTTP/1.0", "after an interim answer", "bare line ends"],
)
def test_forms_of_an_answer(connect: Connect, answer: bytes) -> None:
    connection, _ = connect(answer)
    response = post(connection)
    assert (response.status, response.body) == (200, b"abc")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", "the connection was closed"),
        (OK + b"Content-Length: 4\r\n\r\nabc", "closed within an answer"),
        (OK + b"Content-Length: -1\r\n\r\n", "'-1' where a number must be"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", "'xyz' where a number must be"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", "closed within an answer"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", "the connection was closed"),
        (b"SSH-2.0-OpenSSH\r\n", "the answer is not HTTP/1.1"),
        (b"HTTP/1.1 OK\r\n", "'OK' where a number must be"),
        (OK + b"A: " + b"b" * 70_000, "head is too long"),
        (OK + b"A: b\r\n" * 201, "head is too long"),
    ],
)
def test_what_is_no_answer(connect: Connect, answer: bytes, problem: str) -> None:
    connection, _ = connect(answer)
    with pytest.raises(ProtocolError, match=problem):
        post(connection)


@needs_openssl
def test_certificates_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = make_certificate(tmp_path, "DNS:localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def ask() -> bytes:
        server = Server(OK + b"Content-Length: 2\r\n\r\nok", context=context)
        connection = Connection(host="localhost", port=server.port, tls=True, timeout=30)
        try:
            connection.connect()
            return post(connection).body
        finally:
            connection.close()
            server.end()

    with pytest.raises(ssl.SSLCertVerificationError):
        ask()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert ask() == b"ok"

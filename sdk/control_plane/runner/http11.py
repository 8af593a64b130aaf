"""Just enough of HTTP/1.1 (RFC 9112) for a worker's requests to its API.

The standard library's `http.client` would do, but its imports (`email`, `ssl`) take longer than the
start of Python itself, and each execution is a process that pays for them. `ssl` is imported only
for https addresses.
"""

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO

_LONGEST_LINE = 65_536
"""Bytes of a line of the answer's head; a longer one is no answer of an API."""
_MOST_LINES = 200


class ProtocolError(Exception):
    """What came is no complete HTTP answer."""


class Response:
    """One answer, read completely.

    Attributes:
        status: the status code.
        headers: the header fields by their names in lower case.
        body: the content.
    """

    def __init__(self, *, status: int, headers: "dict[str, str]", body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Connection:
    """A connection to one server that is kept open between requests."""

    def __init__(self, *, host: str, port: int | None, tls: bool, timeout: float) -> None:
        """Prepare a connection; nothing is sent yet.

        Args:
            host: name or address.
            port: 443 or 80 if None.
            tls: whether to speak TLS, and to check the server's certificate for its name.
            timeout: seconds for connecting, and for each wait for the other side.
        """
        usual = 443 if tls else 80
        self._address = (host, port or usual)
        self._tls = tls
        self._timeout = timeout
        name = f"[{host}]" if ":" in host else host
        self._host = name if self._address[1] == usual else f"{name}:{port}"
        self._stream: BinaryIO | None = None
        self.socket: socket.socket | None = None
        """None while there is no connection."""

    def connect(self) -> None:
        """Connect.

        Raises:
            OSError: it failed, also for a certificate that is not to be trusted.
        """
        connection = socket.create_connection(self._address, self._timeout)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                import ssl  # noqa: PLC0415 - see above

                context = ssl.create_default_context()
                connection = context.wrap_socket(connection, server_hostname=self._address[0])
        except BaseException:
            connection.close()
            raise
        self.socket = connection
        self._stream = connection.makefile("rb")

    def request(
        self, method: str, path: str, headers: "Mapping[str, str]", body: bytes
    ) -> Response:
        """Send a request over the connection, and read the whole answer.

        Raises:
            OSError: the connection failed, or the other side was silent for too long.
            ProtocolError: the answer is not complete, or none.
        """
        connection, stream = self.socket, self._stream
        if connection is None or stream is None:
            raise ProtocolError("there is no connection")
        fields = {"Host": self._host, **headers, "Content-Length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        connection.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("ascii") + body)
        response, is_last = _read_response(stream)
        if is_last:
            self.close()
        return response

    def close(self) -> None:
        """End the connection, if there is one."""
        stream, connection = self._stream, self.socket
        self._stream = self.socket = None
        if stream is not None:
            stream.close()
        if connection is not None:
            connection.close()


def _read_response(stream: "BinaryIO") -> "tuple[Response, bool]":
    """Read an answer; returns it, and whether the connection ends with it."""
    version, status = _read_status(stream)
    headers = _read_headers(stream)
    while 100 <= status < 200:
        version, status = _read_status(stream)
        headers = _read_headers(stream)
    is_last = "close" in headers.get("connection", "").lower() or version != "HTTP/1.1"
    if status in (204, 304):
        body = b""
    elif headers.get("transfer-encoding", "identity").lower() != "identity":
        body = _read_chunks(stream)
    elif "content-length" in headers:
        body = _read_exactly(stream, _number(headers["content-length"], base=10))
    else:
        body, is_last = stream.read(), True
    return Response(status=status, headers=headers, body=body), is_last


def _read_status(stream: "BinaryIO") -> tuple[str, int]:
    version, _, rest = _read_line(stream).partition(" ")
    if not version.startswith("HTTP/1."):
        raise ProtocolError("the answer is not HTTP/1.1")
    return version, _number(rest[:3], base=10)


def _read_headers(stream: "BinaryIO") -> dict[str, str]:
    headers: dict[str, str] = {}
    for _ in range(_MOST_LINES):
        line = _read_line(stream)
        if not line:
            return headers
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    raise ProtocolError("the answer's head is too long")


def _read_chunks(stream: "BinaryIO") -> bytes:
    chunks = []
    while size := _number(_read_line(stream).partition(";")[0], base=16):
        chunks.append(_read_exactly(stream, size))
        _read_line(stream)
    _read_headers(stream)
    return b"".join(chunks)


def _read_line(stream: "BinaryIO") -> str:
    line = stream.readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        is_cut = len(line) == _LONGEST_LINE
        raise ProtocolError(
            "the answer's head is too long" if is_cut else "the connection was closed"
        )
    return line.rstrip(b"\r\n").decode("latin-1")


def _read_exactly(stream: "BinaryIO", size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise ProtocolError("the connection was closed within an answer")
    return content


def _number(text: str, *, base: int) -> int:
    try:
        number = int(text, base)
    except ValueError:
        number = -1
    if number < 0:
        raise ProtocolError(f"the answer holds {text[:20]!r} where a number must be")
    return number

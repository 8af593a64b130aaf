"""One HTTP connection to the API: a single try of a request, without repetition."""

import json
import select
from urllib.parse import urlsplit

from control_plane.runner.http11 import Connection, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class NoAnswerError(Exception):
    """A try ended without an answer.

    Attributes:
        may_have_arrived: False if the request certainly did not reach the API.
    """

    def __init__(self, text: str, *, may_have_arrived: bool) -> None:
        super().__init__(text)
        self.may_have_arrived = may_have_arrived


class Answer:
    """What the API answered."""

    def __init__(self, *, status: int, body: bytes, retry_after: float) -> None:
        self.status = status
        self.retry_after = retry_after
        """Seconds that the API asks to be left alone; 0 if it says nothing."""
        self._body = body

    @property
    def is_success(self) -> bool:
        """Whether the request did what it was to do."""
        return 200 <= self.status < 300

    @property
    def content(self) -> "dict[str, Any] | None":
        """The JSON object in the body, or None if there is none."""
        try:
            content = json.loads(self._body)
        except ValueError:
            return None
        return content if isinstance(content, dict) else None

    @property
    def detail(self) -> str:
        """The error text of an unsuccessful answer."""
        content = self.content
        if content is None or "detail" not in content:
            return self._body[:200].decode(errors="replace").strip() or "(no text)"
        detail = content["detail"]
        return detail if isinstance(detail, str) else json.dumps(detail)[:500]


class Transport:
    """A connection that is kept open between requests. Not for use by two threads at once."""

    def __init__(self, api_url: str, *, api_key: str, timeout: float) -> None:
        """Prepare a connection; nothing is sent yet.

        Args:
            api_url: the base address, without a trailing slash.
            api_key: sent as bearer token.
            timeout: seconds for connecting, and for each wait for the other side.
        """
        parts = urlsplit(api_url)
        self._connection = Connection(
            host=parts.hostname or "",
            port=parts.port,
            tls=parts.scheme == "https",
            timeout=timeout,
        )
        self._base_path = parts.path
        self._headers = {
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/json",
            "Accept": "application/json",
        }

    def send(
        self,
        method: str,
        path: str,
        content: "dict[str, Any] | None" = None,
        *,
        body: bytes | None = None,
    ) -> Answer:
        """Send one request, with `content` as JSON or with `body`, and read the whole answer.

        Raises:
            NoAnswerError: the connection failed, or the other side was silent for too long.
        """
        if content is not None:
            body = json.dumps(content, ensure_ascii=False).encode(errors="backslashreplace")
        arrived = False
        try:
            self._connect()
            arrived = True
            response = self._connection.request(
                method, self._base_path + path, self._headers, body or b""
            )
            return Answer(
                status=response.status,
                body=response.body,
                retry_after=_seconds(response.headers.get("retry-after")),
            )
        except (OSError, ProtocolError) as error:
            self.close()
            text = str(error) or "no answer"
            raise NoAnswerError(
                f"{type(error).__name__}: {text}", may_have_arrived=arrived
            ) from None

    def close(self) -> None:
        """End the connection; the next request opens another."""
        self._connection.close()

    def _connect(self) -> None:
        connection = self._connection
        if connection.socket is not None and is_readable(connection.socket.fileno()):
            # Between two requests there is nothing to read but the end of the connection. A server
            # may close one that was idle, and a request sent into it would be lost.
            connection.close()
        if connection.socket is None:
            connection.connect()


def is_readable(descriptor: int) -> bool:
    """Tell whether a read would give something, or the end, at once."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _seconds(header: str | None) -> float:
    return float(header) if header is not None and header.isdecimal() else 0.0

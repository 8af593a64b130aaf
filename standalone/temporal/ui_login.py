"""Who may see Temporal's web UI: whoever opens a link that works once."""

import hashlib
import secrets
import time
from typing import Final
from urllib.parse import urlencode, urlsplit

LINK_SECONDS: Final = 300
"""How long a link can be opened."""
MOST_LINKS: Final = 1000
"""Links that wait to be opened. One more, and the oldest does not work any more."""
MOST_SESSIONS: Final = 1000
LOGIN_PATH: Final = "/_control-plane/login"
"""No path of Temporal's UI."""


class UiLogin:
    """The links and sessions of one start of the server, in memory only.

    Args:
        url: the address of the UI: scheme, host and port.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url: Final = f"{parts.scheme}://{parts.netloc}"
        """The address of the UI, without a slash at its end."""
        self.host: Final = parts.netloc
        """The only Host that is answered."""
        self._links: dict[bytes, tuple[float, str]] = {}
        self._sessions: dict[bytes, None] = {}

    def one_time_link(self, path: str = "/") -> str:
        """Give an address that logs one browser in and leads to a page of the UI.

        Args:
            path: of the page; starts with a slash.
        """
        token = secrets.token_urlsafe(32)
        if len(self._links) >= MOST_LINKS:
            del self._links[next(iter(self._links))]
        self._links[_digest(token)] = (time.monotonic() + LINK_SECONDS, path)
        return f"{self.url}{LOGIN_PATH}?{urlencode({'token': token})}"

    def open_link(self, token: str) -> tuple[str, str] | None:
        """Take a link's token; gives a new session and the path, None if it works no more."""
        until, path = self._links.pop(_digest(token), (0.0, ""))
        if until < time.monotonic():
            return None
        session = secrets.token_urlsafe(32)
        if len(self._sessions) >= MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[_digest(session)] = None
        return session, path

    def knows(self, session: str) -> bool:
        """Say whether a session is one of those that were opened."""
        return _digest(session) in self._sessions


def made_up_url(port: int) -> str:
    """Make up an address of this machine that nobody knows.

    Browsers send a cookie to every port of a host: at `localhost` the page of another account's
    server would get it. Names below `localhost` lead to this machine (RFC 6761, 6.3).
    """
    return f"http://t-{secrets.token_hex(8)}.localhost:{port}"


def _digest(text: str) -> bytes:
    # Looked up by its digest: how long that takes tells nothing about the text.
    return hashlib.sha256(text.encode()).digest()

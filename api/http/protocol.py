"""HTTP on one connection, as uvicorn reads it, with bounds for what it would wait for or keep.

Uvicorn's own protocol takes a request line, headers and trailers of any length into memory, before
the request is authenticated, and waits for the rest of a request for ever.
"""

import asyncio
import json
import ssl
from contextlib import suppress
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api.http.connections import Connections
from api.http.security_headers import SECURITY_HEADERS

MAX_HEAD_BYTES: Final = 64 * 1024
"""Request line and headers together; also what may come around a body, such as trailers."""
HEAD_SECONDS: Final = 20.0
"""From the opening of a connection, or the first byte of another request, to its last header."""
BODY_SECONDS: Final = 60.0
"""From the end of the headers to the end of the body."""
MAX_PIPELINED: Final = 100
"""Requests that one connection may send ahead of their answers."""

_FRAMING_PER_BODY_BYTE = 8
"""A chunk of one byte needs five more around it."""
_HEADERS_OF_REFUSALS: Final = "".join(
    f"{name}: {value}\r\n"
    for name, value in (
        ("content-type", "application/json"),
        ("connection", "close"),
        *SECURITY_HEADERS,
    )
).encode()


class _HeadIsTooLargeError(Exception):
    """Request line and headers are over the limit."""


class BoundedProtocol(HttpToolsProtocol):
    """Answers 431 to a head that is too large, and 408 to a request that does not come to its end.

    Both close the connection. Between two requests uvicorn closes an idle connection by itself. A
    connection for which there is no room gets 503, or with TLS nothing.

    Args:
        *arguments: uvicorn's.
        room: counts the connections.
        tls: what to speak TLS with; None: nothing is encrypted.
        **options: uvicorn's.
    """

    head_seconds = HEAD_SECONDS
    body_seconds = BODY_SECONDS

    def __init__(
        self,
        *arguments: Any,  # noqa: ANN401 - uvicorn's own
        room: Connections,
        tls: ssl.SSLContext | None,
        **options: Any,  # noqa: ANN401 - uvicorn's own
    ) -> None:
        super().__init__(*arguments, **options)
        self._room = room
        self._tls = tls
        self._is_counted = False
        self._accepted: asyncio.Transport | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._early = b""
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = True
        self._in_message = False
        self._received = 0
        self._has_begun = False
        self._body_bytes = 0
        self._head_bytes = 0
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn
        """Wait for the first request, but not for ever."""
        self._accepted = transport
        self._is_counted = True
        if not self._room.opened(self):
            self._turn_away(transport)
        elif self._tls is None:
            self._begin(transport)
        else:
            # What comes is for the handshake.
            transport.pause_reading()
            self._handshake = self.loop.create_task(self._shake_hands(transport, self._tls))

    def give_up(self) -> None:
        """Close the connection at once: there is no room for those that send nothing."""
        if self._accepted is not None:
            self._accepted.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_counting()
        self._stop_waiting()
        if self.transport is not None:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has come; refuse what is no body and yet has no end."""
        if self.transport is None:
            # Together with the last bytes of the handshake, which has not told us yet.
            self._early += data
            return
        if self._timer is None and not self._in_message:
            self._wait_at_most(self.head_seconds)
        self._has_begun = False
        super().data_received(data)
        if not self._in_message or self._has_begun:
            # Of the bytes that a request begins with, some may belong to the one before.
            return
        self._received += len(data)
        around = self._received - self._body_bytes
        if around > MAX_HEAD_BYTES + _FRAMING_PER_BODY_BYTE * self._body_bytes:
            self._refuse_head()

    def on_message_begin(self) -> None:
        """Count from here."""
        super().on_message_begin()
        self._in_head = self._in_message = self._has_begun = True
        self._received = self._body_bytes = self._head_bytes = 0
        if self._timer is None:
            self._wait_at_most(self.head_seconds)

    def on_url(self, url: bytes) -> None:
        """Count a part of the request line."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header; trailers come here too."""
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Wait for the body."""
        self._in_head = False
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ConnectionError("too many requests sent ahead")
        self._wait_at_most(self.body_seconds)
        self._room.sent_a_request(self)
        super().on_headers_complete()
        if self._room.are_scarce:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Count a part of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for nothing but the answer."""
        self._in_message = False
        self._in_head = True
        self._stop_waiting()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        else:
            self._refuse(400, msg)

    def _begin(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._wait_at_most(self.head_seconds)

    async def _shake_hands(self, accepted: asyncio.Transport, tls: ssl.SSLContext) -> None:
        transport = None
        # No TLS, or the client does not like our certificate: its own words say more.
        with suppress(OSError):
            transport = await self.loop.start_tls(
                accepted, self, tls, server_side=True, ssl_handshake_timeout=self.head_seconds
            )
        if transport is None or accepted.is_closing():
            # Until now the end of the connection is told to asyncio's side of TLS, and not to us.
            accepted.abort()
            self._stop_counting()
            return
        self._begin(transport)
        early, self._early = self._early, b""
        if early:
            self.data_received(early)

    def _turn_away(self, transport: asyncio.Transport) -> None:
        # Without the handshake, a client that expects TLS would understand nothing.
        if self._tls is None:
            detail = "Too many connections are open. Please try again"
            transport.write(_refusal(503, detail, b"retry-after: 1\r\n"))
        transport.close()

    def _stop_counting(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._room.closed(self)

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > MAX_HEAD_BYTES:
            # The parser stops and `send_400_response` is called.
            raise _HeadIsTooLargeError

    def _refuse_head(self) -> None:
        self._refuse(
            431, f"The request line and headers are too large: over {MAX_HEAD_BYTES} bytes"
        )

    def _wait_at_most(self, seconds: float) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(seconds, self._on_time_up, seconds)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_time_up(self, seconds: float) -> None:
        self._timer = None
        if self._in_message:
            what = "headers" if self._in_head else "body"
            self._refuse(408, f"The request's {what} did not arrive within {seconds:g} seconds")
        elif not self._is_answering():
            self.transport.close()

    def _is_answering(self) -> bool:
        cycle = getattr(self, "cycle", None)
        return cycle is not None and not cycle.response_complete

    def _refuse(self, status: int, detail: str) -> None:
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._stop_waiting()
        # With an earlier answer on its way, or this one begun, no other can be told from it.
        if not self._is_answering() or not (self._in_head or self.cycle.response_started):
            self.transport.write(_refusal(status, detail))
        self.transport.close()


def _refusal(status: int, detail: str, headers: bytes = b"") -> bytes:
    body = json.dumps({"detail": detail}).encode()
    return (
        STATUS_LINE[status]
        + _HEADERS_OF_REFUSALS
        + headers
        + b"content-length: %d\r\n\r\n" % len(body)
        + body
    )

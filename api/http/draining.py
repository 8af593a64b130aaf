"""How the server stops without breaking a connection that a client has sent a request on.

A client can repeat a request safely if its connection was refused. If the connection breaks after
the request was sent, the client cannot know what has become of it. So the server closes nothing
before it has told the client.
"""

import ctypes
import socket
import struct
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = structlog.get_logger(__name__)

_SO_ATTACH_FILTER: Final = 26
"""Linux's socket option, see socket(7); Python has no name for it."""

# What the kernel runs for each packet to the socket (classic BPF), as (code, jump if true, jump if
# false, operand). It drops packets with SYN and without ACK, the first of each connection.
_DROP_NEW_CONNECTIONS: Final = (
    (0x30, 0, 0, 13),  # load the byte with TCP's flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # keep the packet
)


def refuse_new_connections(listener: socket.socket) -> None:
    """Refuse new clients, and leave alone those that are connected or just connecting.

    The server can still accept these; closing the listener would reset the connections that it has
    not accepted. The kernel drops the first packet of a new client, which tries again after a
    second, and is refused or reaches the next process. Where the kernel cannot do it, nothing
    changes.
    """
    program = b"".join(struct.pack("HBBI", *step) for step in _DROP_NEW_CONNECTIONS)
    buffer = ctypes.create_string_buffer(program)
    length = len(_DROP_NEW_CONNECTIONS)
    try:
        listener.setsockopt(
            socket.SOL_SOCKET,
            _SO_ATTACH_FILTER,
            # The kernel copies the program before this returns.
            struct.pack("HL", length, ctypes.addressof(buffer)),
        )
    except OSError as error:
        logger.info("listener_takes_no_filter", error=error.strerror)


class DrainingMiddleware:
    """The application; from `begin` on, each answer tells the client to use another connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._has_begun = False

    def begin(self) -> None:
        """Let answers from now on carry `Connection: close`; the server closes after them."""
        self._has_begun = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._has_begun:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, send_closing)

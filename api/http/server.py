"""Serving the application with uvicorn, as one part of a process that may have others."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp

from api.http.connections import Connections, connections_limit
from api.http.draining import DrainingMiddleware, refuse_new_connections
from api.http.protocol import BoundedProtocol
from api.http.security_headers import SECURITY_HEADERS
from registry.changes import Changes

_DRAIN_SECONDS = 30
"""How long requests that are under way may take after the order to stop."""

_CONNECTING_SECONDS = 0.1
"""How long a client that is just connecting at the order to stop may take for it."""

_IDLE_SECONDS = 1.0
"""How long a connection without a request is kept open after the order to stop.

A client that sends one meanwhile is told to close. If the server closed the connection at once, it
might break under a request that is on its way.
"""

_KEEP_ALIVE_SECONDS = 75
"""How long a connection may be idle. Longer than clients and proxies (mostly 60 s) keep theirs, so
that they close it, who know whether a request is on its way."""


_BACKLOG = 2048
"""Connections that the kernel has made and that wait for us to take them."""

_ACCEPTED_AT_ONCE = 8
"""How many of them are taken before anything else is done. Where no file is left, asyncio tries as
often before it pauses."""

_NO_FILES_LEFT = "socket.accept() out of system resource"
"""What asyncio says to the loop's exception handler then."""

logger = structlog.get_logger(__name__)


class CannotListenError(OSError):
    """An address cannot be listened at: it is taken, not ours to take, or not of this machine."""

    def __str__(self) -> str:
        return f"Cannot listen on {self.filename}: {self.strerror}"


def bind(host: str, port: int) -> socket.socket:
    """Take a port before anything else is started.

    Args:
        host: address of the interface.
        port: 0 for any free one.

    Raises:
        CannotListenError: the port is taken, or not ours to take.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise CannotListenError(error.errno, error.strerror, f"{host}:{port}") from error
    listener.setblocking(False)
    # Inherited by its connections. asyncio sets it too, but not for sockets that it has not made
    # itself; without it the body of an answer waits for the client to acknowledge the head, which
    # takes the client's kernel 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers of its own: the process may have more to stop than us.

    Its own shutdown would reset connections that are not accepted yet, and close idle ones while
    requests are on their way to them.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            # To asyncio both numbers are one.
            listener.listen(_BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in sockets or []:
            refuse_new_connections(listener)
        await asyncio.sleep(_CONNECTING_SECONDS)
        for accepting in self.servers:
            accepting.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_IDLE_SECONDS):
                while self.server_state.connections:  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(0.02)
        await super().shutdown(sockets)


async def serve(
    app: ASGIApp,
    *,
    listener: socket.socket,
    stop: asyncio.Event,
    changes: Changes | None = None,
    tls: ssl.SSLContext | None = None,
    max_connections: int | None = None,
    headers: Sequence[tuple[str, str]] = SECURITY_HEADERS,
) -> None:
    """Serve until `stop` is set, then finish the requests that are under way.

    Those that wait for a change are answered at once: `changes` is closed. Each client that has
    sent a request gets an answer before its connection closes, unless the request takes too long.

    Args:
        app: the application.
        listener: from `bind`; the caller closes it.
        stop: the order to stop.
        changes: what requests wait for, if any do.
        tls: from `api.http.tls.load_certificate`; None: plain HTTP.
        max_connections: how many may be open at the same time, if the open files allow it.
        headers: what each answer has besides its own.

    Raises:
        RuntimeError: the server ended by itself.
    """
    draining = DrainingMiddleware(app)
    limit = connections_limit(max_connections)
    if max_connections is not None and limit < max_connections:
        logger.warning("open_files_allow_fewer_connections", wanted=max_connections, limit=limit)
    server = _Server(
        uvicorn.Config(
            draining,
            http=partial(BoundedProtocol, room=Connections(limit), tls=tls),  # type: ignore[arg-type] # makes one
            backlog=_ACCEPTED_AT_ONCE,
            headers=list(headers),
            # Nothing here speaks it.
            ws="none",
            # Our logging takes uvicorn's lines as they come.
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
    )
    _say_once_a_second_that_no_file_is_left(asyncio.get_running_loop())
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            await serving
            raise RuntimeError("the HTTP server ended unexpectedly")
    finally:
        draining.begin()
        if changes is not None:
            await changes.close()
        server.should_exit = True
        stopping.cancel()
        await serving


def _say_once_a_second_that_no_file_is_left(loop: asyncio.AbstractEventLoop) -> None:
    """Answer asyncio's reports of it, one for each connection that it tries to take."""
    said = -float("inf")
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal said
        if context.get("message") == _NO_FILES_LEFT:
            if time.monotonic() - said >= 1:
                said = time.monotonic()
                logger.error("no_file_left_for_a_connection", error=str(context.get("exception")))
        elif before is not None:
            before(loop, context)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)

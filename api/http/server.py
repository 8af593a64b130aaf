"""Serving the application with uvicorn, as one part of a process that may have others."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from api.http.draining import DrainingMiddleware, refuse_new_connections
from api.http.protocol import BoundedProtocol
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
        listener = socket.create_server((host, port), family=family, backlog=2048)
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
    app: FastAPI, *, listener: socket.socket, changes: Changes, stop: asyncio.Event
) -> None:
    """Serve until `stop` is set, then finish the requests that are under way.

    Those that wait for a change are answered at once: `changes` is closed. Each client that has
    sent a request gets an answer before its connection closes, unless the request takes too long.

    Raises:
        RuntimeError: the server ended by itself.
    """
    draining = DrainingMiddleware(app)
    server = _Server(
        uvicorn.Config(
            draining,
            http=BoundedProtocol,
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
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            await serving
            raise RuntimeError("the HTTP server ended unexpectedly")
    finally:
        draining.begin()
        await changes.close()
        server.should_exit = True
        stopping.cancel()
        await serving

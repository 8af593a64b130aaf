"""Serving the application with uvicorn, as one part of a process that may have others."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from registry.changes import Changes

_DRAIN_SECONDS = 30
"""How long requests that are under way may take after the order to stop."""


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
    return listener


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers of its own: the process may have more to stop than us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    app: FastAPI, *, listener: socket.socket, changes: Changes, stop: asyncio.Event
) -> None:
    """Serve until `stop` is set, then finish the requests that are under way.

    Those that wait for a change are answered at once: `changes` is closed.

    Raises:
        RuntimeError: the server ended by itself.
    """
    server = _Server(
        uvicorn.Config(
            app,
            http="httptools",
            # Our logging takes uvicorn's lines as they come.
            log_config=None,
            access_log=False,
            server_header=False,
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
        await changes.close()
        server.should_exit = True
        stopping.cancel()
        await serving

"""A connection that can be disturbed: a TCP proxy in this process."""

import asyncio
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from tests.proofs.chaos.faults import Kind

_CHUNK = 256 * 1024
_CONNECT_SECONDS = 2.0
_LATE_SECONDS = (0.05, 0.3)
"""How late what is sent arrives under DELAY, in turn."""


class Link:
    """Forwards connections to a server, or in turn to several of the same kind.

    Args:
        name: as faults call it.
        ports: of the servers, on the loopback interface.
    """

    def __init__(self, name: str, *ports: int) -> None:
        self.name = name
        self.port = 0
        """Where to connect; known after the start."""
        self._ports: Sequence[int] = ports
        self._turn = 0
        self._disturbance: Kind | None = None
        self._undisturbed = asyncio.Event()
        self._undisturbed.set()
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", 0, limit=_CHUNK, backlog=1024
        )
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def disturb(self, kind: Kind) -> None:
        """Begin a REFUSE, SILENCE or DELAY."""
        self._disturbance = kind
        if kind is Kind.REFUSE:
            self._cut()
        elif kind is Kind.SILENCE:
            self._undisturbed.clear()

    def heal(self) -> None:
        """End the disturbance."""
        self._disturbance = None
        self._undisturbed.set()

    def _cut(self) -> None:
        for connection in self._connections:
            connection.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # The end of a connection, however it comes about, is what this is for.
        with suppress(OSError, asyncio.CancelledError):
            try:
                if self._disturbance is not Kind.REFUSE:
                    await self._forward(reader, writer)
            finally:
                _reset(writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._undisturbed.wait()
        there = await self._connect()
        if there is None:
            return
        there_reader, there_writer = there
        pumps = [
            asyncio.create_task(self._pump(reader, there_writer)),
            asyncio.create_task(self._pump(there_reader, writer)),
        ]
        try:
            await asyncio.gather(*pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            _reset(there_writer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Connect to the server whose turn it is, or to the next that can be reached."""
        self._turn += 1
        for number in range(len(self._ports)):
            port = self._ports[(self._turn + number) % len(self._ports)]
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_CONNECT_SECONDS):
                    return await asyncio.open_connection("127.0.0.1", port, limit=_CHUNK)
        return None

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = 0
        while data := await reader.read(_CHUNK):
            await self._undisturbed.wait()
            if self._disturbance is Kind.DELAY:
                count += 1
                await asyncio.sleep(_LATE_SECONDS[count % len(_LATE_SECONDS)])
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection at once; if something is still to be sent, it is dropped."""
    connection = writer.get_extra_info("socket")
    if connection is not None and writer.transport.get_write_buffer_size():
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()

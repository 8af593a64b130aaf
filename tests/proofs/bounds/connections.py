"""Hostile clients: bodies, headers, JSON, and connections that come to no end."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from tests.support.stack.stack import API_KEY, Stack

MIB = 2**20
_CONNECTIONS = 200
Facts = dict[str, Any]


class Attacker:
    """Opens connections to the API of a stack, and sees how it fares meanwhile."""

    def __init__(self, stack: Stack, version_path: str) -> None:
        self._port = stack.port
        self._post = _post(f"{version_path}/functions/greet/invocations")
        self._post_version = _post(version_path.rpartition("/")[0])
        self.slowest_health = 0.0

    async def large_bodies(self) -> Facts:
        """200 bodies of 4 MiB at once, each a million values that nobody wants."""
        junk = b'{"input": {"junk": [' + b"{}," * ((4 * MIB - 64) // 3) + b"0]}}"
        head = b"Content-Length: %d\r\n\r\n" % len(junk)
        return await self._many(lambda: self._request(self._post + head, junk))

    async def wrong_functions(self) -> Facts:
        """20 versions of two million functions that are none."""
        junk = b'{"default_docker_image": "i", "functions": [' + b"0," * (2 * MIB - 64) + b"0]}"
        head = self._post_version + b"Content-Length: %d\r\n\r\n" % len(junk)
        return await self._many(lambda: self._request(head, junk), count=20)

    async def endless_bodies(self) -> Facts:
        """200 bodies in chunks that never end."""
        head = self._post + b"Transfer-Encoding: chunked\r\n\r\n"
        chunk = b"10000\r\n" + b"[" * 65_536 + b"\r\n"
        return await self._many(lambda: self._until_answered(head, chunk))

    async def endless_heads(self) -> Facts:
        """200 headers, and 200 trailers of bodies, that never end."""
        trailer = self._post + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: "
        # An unauthenticated client can do it too.
        trailer = trailer.replace(API_KEY.encode(), b"nobody")
        header = b"GET / HTTP/1.1\r\nX-Endless: "
        piece = b"x" * 65_536
        first = await self._many(lambda: self._until_closed(header, piece))
        return {
            "headers": first,
            "trailers": await self._many(lambda: self._until_closed(trailer, piece)),
        }

    async def hostile_json(self) -> Facts:
        """What is hard to read, twenty times each, one after another."""
        bodies = (
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b'{"input": ' + b"9" * 100_000 + b"}",
            b'{"input": NaN}',
            b'{"input": "\\ud800"}',
            b'{"input": "x", "input": 3}',
            b'{"' + b'a": 1, "' * 100_000 + b'b": 1}',
        )
        answers: Counter[str] = Counter()
        for body in bodies * 20:
            head = b"Content-Length: %d\r\n\r\n" % len(body)
            answers[await self._request(self._post + head, body)] += 1
        return dict(answers)

    async def slow_clients(self) -> Facts:
        """1000 connections that send a byte of a header, and 1000 of a body, each second."""
        body = self._post + b"Content-Length: 1000\r\n\r\n"
        began = time.monotonic()
        answers = await self._many(lambda: self._trickle(b"GET / HTTP/1.1\r\nX-Slow: "), count=1000)
        bodies = await self._many(lambda: self._trickle(body), count=1000)
        return {"heads": answers, "bodies": bodies, "s": round(time.monotonic() - began)}

    async def _many(
        self, one: Callable[[], Coroutine[Any, Any, str]], *, count: int = _CONNECTIONS
    ) -> Facts:
        async with self._watched():
            return dict(Counter(await asyncio.gather(*(one() for _ in range(count)))))

    @asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        watcher = asyncio.create_task(self._ask_for_health())
        try:
            yield
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher

    async def _ask_for_health(self) -> None:
        while True:
            began = time.monotonic()
            answer = await self._request(b"GET / HTTP/1.1\r\nHost: c\r\n\r\n", b"")
            assert answer == "200", answer
            self.slowest_health = max(self.slowest_health, time.monotonic() - began)
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            yield reader, writer
        finally:
            writer.close()

    async def _request(self, head: bytes, body: bytes) -> str:
        async with self._open() as (reader, writer):
            writer.write(head + body)
            return await _status(reader)

    async def _until_answered(self, head: bytes, piece: bytes) -> str:
        async with self._open() as (reader, writer):
            writer.write(head)
            answered = asyncio.create_task(_status(reader))
            while not answered.done():
                writer.write(piece)
                with suppress(ConnectionError):
                    await writer.drain()
                await asyncio.sleep(0)
            return await answered

    async def _until_closed(self, head: bytes, piece: bytes) -> str:
        async with self._open() as (_, writer):
            writer.write(head)
            # Two hundred connections with a gigabyte would be too much for anybody.
            for _ in range(1024):
                writer.write(piece)
                try:
                    await writer.drain()
                except ConnectionError:
                    return "closed"
            return "64 MiB were taken"

    async def _trickle(self, head: bytes) -> str:
        async with self._open() as (reader, writer):
            writer.write(head)
            answered = asyncio.create_task(_status(reader))
            while not answered.done():
                writer.write(b"x")
                await asyncio.wait([answered], timeout=1)
            return await answered


def _post(path: str) -> bytes:
    return (f"POST {path} HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer {API_KEY}\r\n").encode()


async def _status(reader: asyncio.StreamReader) -> str:
    try:
        async with asyncio.timeout(180):
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
            json.loads(await reader.readexactly(int(length)))
            return head.split()[1].decode()
    except (ConnectionError, asyncio.IncompleteReadError):
        return "closed"

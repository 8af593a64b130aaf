"""What a connection may send, and how long it may take, on a real server."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from api.http.middleware import MAX_BODY_BYTES, BodyLimitMiddleware
from api.http.protocol import MAX_HEAD_BYTES, MAX_PIPELINED, BoundedProtocol
from api.http.server import bind, serve
from registry.changes import Changes
from registry.database.engine import Registry
from tests.support.harness import API_KEY

AUTHORIZED = f"Authorization: Bearer {API_KEY}\r\n".encode()
PATH = b"/projects/p/versions/latest/functions/f/invocations"
POST = b"POST " + PATH + b" HTTP/1.1\r\nHost: c\r\n" + AUTHORIZED
HEALTH = b"GET / HTTP/1.1\r\nHost: c\r\n\r\n"


class Connection:
    """A client that keeps to no rule."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self) -> tuple[int, dict[str, object]]:
        async with asyncio.timeout(60):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            body = json.loads(await self._reader.readexactly(length))
        return int(head.split()[1]), body

    async def pour(self, piece: bytes, *, most: int) -> int:
        """Send the same again and again until the server has enough; returns the bytes sent."""
        sent = 0
        async with asyncio.timeout(60):
            while sent < most:
                self._writer.write(piece)
                sent += len(piece)
                try:
                    await self._writer.drain()
                except ConnectionError:
                    break
        return sent

    async def end(self) -> bytes:
        """Wait until the server closes the connection; returns what it has sent before."""
        async with asyncio.timeout(60):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    def close(self) -> None:
        self._writer.close()


class Listening:
    """The API on a port."""

    def __init__(self, port: int) -> None:
        self.port = port

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port))
        try:
            yield connection
        finally:
            connection.close()

    async def is_healthy(self) -> bool:
        async with self.connection() as connection:
            connection.send(HEALTH)
            return await connection.answer() == (200, {"status": "healthy"})


@pytest.fixture
async def server(app: FastAPI, registry: Registry) -> AsyncIterator[Listening]:
    stop = asyncio.Event()
    with bind("127.0.0.1", 0) as listener:
        serving = asyncio.create_task(
            serve(app, listener=listener, changes=Changes(registry), stop=stop)
        )
        listening = Listening(listener.getsockname()[1])
        assert await listening.is_healthy()
        yield listening
        stop.set()
        await serving


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET / HTTP/1.1\r\nX-Endless: ", b"x" * 4096),
        (b"GET /", b"x" * 4096),
        (b"GET / HTTP/1.1\r\n", b"X-Many: x\r\n" * 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: ", b"x" * 4096),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1;extension=", b"x" * 4096),
    ],
    ids=["header", "request line", "many headers", "trailer", "chunk extension"],
)
async def test_a_head_without_end_is_cut_off(server: Listening, start: bytes, piece: bytes) -> None:
    async with server.connection() as connection:
        connection.send(start)
        sent = await connection.pour(piece, most=64 * 2**20)
        # What the sockets between us hold was never looked at.
        assert sent < 32 * 2**20
        assert await server.is_healthy()


async def test_a_head_that_is_too_large_is_431_and_one_that_is_not_is_served(
    server: Listening,
) -> None:
    async with server.connection() as connection:
        large = b"x" * (MAX_HEAD_BYTES - 1024)
        connection.send(b"GET / HTTP/1.1\r\nHost: c\r\nX-Large: " + large + b"\r\n\r\n")
        assert (await connection.answer())[0] == 200
        connection.send(b"GET / HTTP/1.1\r\nX-Large: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n")
        detail = "The request line and headers are too large: over 65536 bytes"
        assert await connection.answer() == (431, {"detail": detail})
        assert await connection.end() == b""


async def test_what_is_no_http_is_400_as_json(server: Listening) -> None:
    async with server.connection() as connection:
        connection.send(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert await connection.answer() == (400, {"detail": "Invalid HTTP request received."})
        assert await connection.end() == b""


async def test_slow_requests_are_ended_and_hold_up_nobody(
    server: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_seconds", 2)
    monkeypatch.setattr(BoundedProtocol, "body_seconds", 2)
    async with (
        server.connection() as silent,
        server.connection() as half_a_head,
        server.connection() as half_a_body,
        server.connection() as second_head,
        server.connection() as blank_lines,
    ):
        half_a_head.send(b"GET / HTTP/1.1\r\nHost: c\r\nX-Slow: ")
        half_a_body.send(POST + b"Content-Length: 100\r\n\r\n{")
        second_head.send(HEALTH + b"GET / HT")
        blank_lines.send(HEALTH)
        assert (await blank_lines.answer())[0] == 200
        blank_lines.send(b"\r\n")
        assert await server.is_healthy()
        head = {"detail": "The request's headers did not arrive within 2 seconds"}
        body = {"detail": "The request's body did not arrive within 2 seconds"}
        assert await half_a_head.answer() == (408, head)
        assert await half_a_body.answer() == (408, body)
        assert (await second_head.answer())[0] == 200
        assert await second_head.answer() == (408, head)
        for connection in (silent, half_a_head, half_a_body, second_head, blank_lines):
            assert await connection.end() == b""
    assert await server.is_healthy()


async def test_a_long_body_is_refused_while_it_comes(server: Listening) -> None:
    async with server.connection() as connection:
        connection.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
        for _ in range(MAX_BODY_BYTES // 65_536 + 1):
            connection.send(chunk)
        # It has not ended.
        status, body = await connection.answer()
        assert status == 413
        assert body == {
            "detail": "The request body is too large: at most 4194304 bytes (4 MiB) are accepted"
        }


async def test_requests_that_are_sent_ahead_are_counted(server: Listening) -> None:
    async with server.connection() as connection:
        connection.send(HEALTH * MAX_PIPELINED)
        for _ in range(MAX_PIPELINED):
            assert (await connection.answer())[0] == 200
    async with server.connection() as connection:
        connection.send(HEALTH * 10 * MAX_PIPELINED)
        assert (await connection.end()).count(b"HTTP/1.1 200") < 10 * MAX_PIPELINED
    assert await server.is_healthy()


async def test_large_bodies_together_are_bounded_and_take_turns() -> None:
    at_work = 0
    most_at_work = 0
    go_on = asyncio.Event()

    async def work(_: Scope, receive: Receive, __: Send) -> None:
        nonlocal at_work, most_at_work
        while (await receive())["more_body"]:
            pass
        at_work += 1
        most_at_work = max(most_at_work, at_work)
        await go_on.wait()
        at_work -= 1

    limited = BodyLimitMiddleware(work, max_together=10 * 100_000, max_at_work=3 * 100_000)

    async def request(size: int, *, complete: bool = True) -> None:
        parts = [{"type": "http.request", "body": b"x" * size, "more_body": not complete}]

        async def receive() -> Message:
            if parts:
                return parts.pop()
            await go_on.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            raise AssertionError(message)

        await limited({"type": "http"}, receive, send)

    async with asyncio.timeout(60):
        async with asyncio.TaskGroup() as requests:
            waiting = [requests.create_task(request(100_000)) for _ in range(9)]
            requests.create_task(request(90_000, complete=False))
            for _ in range(3):
                await asyncio.sleep(0)
            # One more is too many, a small one is not and waits for none of them.
            with pytest.raises(Exception, match="Too many large requests"):
                await request(100_000)
            assert at_work == 3
            small = requests.create_task(request(1000))
            for _ in range(3):
                await asyncio.sleep(0)
            assert at_work == 4
            # Who gives up while it waits takes no room along.
            waiting[4].cancel()
            go_on.set()
        assert small.done()
        # All room is there again.
        await request(300_000)
    assert most_at_work == 4
    assert at_work == 0


async def test_the_time_for_an_answer_is_not_limited(
    server: Listening, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_seconds", 1)
    monkeypatch.setattr(BoundedProtocol, "body_seconds", 1)
    go_on = asyncio.Event()

    async def slow() -> str:
        await go_on.wait()
        return "at last"

    app.add_api_route("/slow", slow)
    async with server.connection() as connection:
        connection.send(b"GET /slow HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n")
        # Some old clients send a blank line after a request.
        connection.send(b"\r\n")
        asyncio.get_running_loop().call_at(time.monotonic() + 3, go_on.set)
        async with asyncio.timeout(60):
            await go_on.wait()
            assert b"at last" in await connection.end()

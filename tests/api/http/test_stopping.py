"""A server that stops breaks no connection under a request."""

import asyncio
import json
import signal
import socket
from dataclasses import dataclass

import pytest
from fastapi import FastAPI

from api.http.draining import refuse_new_connections
from registry.changes import Changes
from tests.support.api import USER, Api, serving
from tests.support.harness import eventually_true
from tests.support.stack.processes import Program, wait_for


@dataclass(frozen=True)
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> tuple[int, dict[str, str]]:
        """Read one answer; returns its status and headers."""
        async with asyncio.timeout(30):
            status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            await self.reader.readexactly(int(headers["content-length"]))
        return int(status.split()[1]), headers

    async def is_closed(self) -> bool:
        async with asyncio.timeout(30):
            return await self.reader.read() == b""


def request(method: str, path: str, body: str = "") -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nHost: control-plane\r\n"
        f"Authorization: {USER['Authorization']}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def test_requests_on_open_connections_are_answered_and_told_to_close(
    api: Api, app: FastAPI, changes: Changes, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one whose request is half sent, and on idle ones whose request is still on its way."""
    # Any machine is quick enough for this.
    monkeypatch.setattr("api.http.server._IDLE_SECONDS", 30)
    call = request("POST", f"{function}/invocations", json.dumps({"input": "1"}))
    async with serving(app, changes) as server:

        async def connect() -> Connection:
            return Connection(*await asyncio.open_connection("127.0.0.1", server.port))

        used, half, unused = await connect(), await connect(), await connect()
        used.writer.write(call)
        status, headers = await used.answer()
        assert (status, headers.get("connection")) == (200, None)
        half.writer.write(call[:-5])
        await half.writer.drain()

        server.stop.set()
        await eventually_true(lambda: server.listener.fileno() == -1)

        half.writer.write(call[-5:])
        for connection in (used, unused):
            connection.writer.write(call)
        for connection in (used, half, unused):
            status, headers = await connection.answer()
            assert (status, headers["connection"]) == (200, "close")
            assert await connection.is_closed()
            connection.writer.close()
    listed = await api.ok("GET", f"{function}/invocations")
    assert len(listed["invocations"]) == 4


def test_who_is_connected_but_not_accepted_is_kept_and_nobody_else_comes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as early:
            early.sendall(b"a request")
            refuse_new_connections(listener)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, timeout=0.1)
            accepted, _ = listener.accept()
            listener.close()
            with accepted:
                assert accepted.recv(100) == b"a request"
                accepted.sendall(b"an answer")
                assert early.recv(100) == b"an answer"


def test_a_second_sigterm_waits_for_no_request(api_program: Program) -> None:
    address = ("127.0.0.1", api_program.event("api_listening")["port"])

    def is_closed() -> bool:
        try:
            socket.create_connection(address, timeout=0.2).close()
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            pass
        return False

    with socket.create_connection(address) as half:
        half.sendall(request("POST", "/projects/shop/versions", "{}")[:-1])
        api_program.send(signal.SIGTERM)
        wait_for(is_closed)
        api_program.send(signal.SIGTERM)
        assert api_program.wait() == -signal.SIGTERM

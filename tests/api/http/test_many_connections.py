"""More connections than there is room for: who says nothing keeps nobody out."""

import asyncio
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from api.http.security_headers import SECURITY_HEADERS
from core.settings import RegistrySettings
from registry.changes import Changes
from tests.support.api import USER, Server, serving
from tests.support.servers import Addresses
from tests.support.stack.processes import Program, wait_for
from tests.support.stack.stack import API_KEY, environment_for

HEALTH = b"GET / HTTP/1.1\r\nHost: c\r\n\r\n"


@asynccontextmanager
async def connected(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, httpx.Headers]:
    """Read one answer; returns its status and headers."""
    async with asyncio.timeout(60):
        head = await reader.readuntil(b"\r\n\r\n")
        status, *lines = head.decode().strip().split("\r\n")
        headers = httpx.Headers(dict(line.split(": ", 1) for line in lines))
        await reader.readexactly(int(headers["content-length"]))
    return int(status.split()[1]), headers


@pytest.fixture
async def small(app: FastAPI, changes: Changes) -> AsyncIterator[Server]:
    """The API with room for four connections; a request to /slow is answered when it is told to."""
    app.state.go_on = asyncio.Event()

    async def slow() -> str:
        await app.state.go_on.wait()
        return "at last"

    app.add_api_route("/slow", slow)
    async with serving(app, changes, max_connections=4) as server:
        yield server
        app.state.go_on.set()


async def test_the_oldest_that_says_nothing_makes_room(small: Server) -> None:
    async with connected(small.port) as (reader, writer):
        writer.write(HEALTH)
        assert (await answer(reader))[0] == 200
        silent = [await asyncio.open_connection("127.0.0.1", small.port) for _ in range(3)]
        for _ in range(20):
            async with connected(small.port) as (another, its):
                its.write(HEALTH)
                assert (await answer(another))[0] == 200
        # The oldest of them is gone, and none that has sent a request.
        async with asyncio.timeout(60):
            assert await _is_closed(silent[0][0])
        writer.write(HEALTH)
        assert (await answer(reader))[0] == 200
        for _, each in silent:
            each.close()


async def test_what_finds_no_room_is_told_to_come_again(small: Server, app: FastAPI) -> None:
    async with asyncio.TaskGroup() as tasks:
        busy = [
            tasks.create_task(_get(f"{small.url}/slow"))
            for _ in range(4)  # all that there is room for
        ]
        turned_away = await _until(f"{small.url}/projects", 503)
        assert turned_away.json() == {"detail": "Too many connections are open. Please try again"}
        assert turned_away.headers["retry-after"] == "1"
        assert turned_away.headers["connection"] == "close"
        assert dict(SECURITY_HEADERS).items() <= turned_away.headers.items()
        app.state.go_on.set()
    assert [each.result().status_code for each in busy] == [200] * 4
    assert (await _until(f"{small.url}/projects", 200)).json() == {"projects": []}


async def test_connections_are_kept_for_later_while_there_is_room_only(small: Server) -> None:
    async with connected(small.port) as (first, to_first), connected(small.port) as (_, __):
        to_first.write(HEALTH)
        assert "connection" not in (await answer(first))[1]
        async with connected(small.port) as (third, to_third):
            to_third.write(HEALTH)
            assert (await answer(third))[1]["connection"] == "close"
            assert await third.read() == b""


async def _is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


async def _get(url: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=60, headers=USER) as http:
        return await http.get(url)


async def _until(url: str, status: int) -> httpx.Response:
    """Ask until it is answered with this status. A refusal may come before the request is sent."""
    async with asyncio.timeout(60):
        while True:
            try:
                seen = await _get(url)
            except httpx.TransportError:
                continue
            if seen.status_code == status:
                return seen


@contextmanager
def crowd(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Connections that send nothing."""
    with ExitStack() as exits:
        yield [
            exits.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            for _ in range(count)
        ]


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("open_files", [64, 128])
def test_300_that_say_nothing_stop_nobody_and_fill_no_log(
    open_files: int, servers: Addresses, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    program = Program(
        "api",
        "--provisioner=dev",
        "--host=127.0.0.1",
        "--port=0",
        environment=environment_for(registry_settings, servers),
        folder=tmp_path,
        open_files=open_files,
    )
    try:
        port = program.event("api_listening")["port"]
        key = {"Authorization": f"Bearer {API_KEY}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=key, timeout=30) as http:
            wait_for(lambda: http.get("/projects").status_code == 200)
            began, used = time.monotonic(), _processor_seconds(program.pid)
            with crowd(port, 300):
                for _ in range(20):
                    # A connection of its own for each.
                    fresh = httpx.get(f"{http.base_url}/projects", headers=key, timeout=30)
                    assert fresh.status_code == 200
                assert http.get("/projects").status_code == 200
            spent = _processor_seconds(program.pid) - used
        lines = [line for line in program.stderr.splitlines() if "no_file_left" in line]
        assert len(lines) <= time.monotonic() - began + 1
        assert "Traceback" not in program.stderr
        assert len(program.stderr) < 20_000
        assert spent < 5
    finally:
        program.kill()


def test_without_a_file_for_a_connection_there_is_one_line_a_second(
    servers: Addresses, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """Files run out all the same: something else has taken them."""
    program = Program(
        "api",
        "--provisioner=dev",
        "--host=127.0.0.1",
        "--port=0",
        environment=environment_for(registry_settings, servers),
        folder=tmp_path,
    )
    try:
        port = program.event("api_listening")["port"]
        url = f"http://127.0.0.1:{port}/projects"
        key = {"Authorization": f"Bearer {API_KEY}"}
        # From then on it has opened what it needs.
        wait_for(lambda: httpx.get(url, headers=key, timeout=60).status_code == 200)
        files = len(list(Path(f"/proc/{program.pid}/fd").iterdir()))
        _, hard = resource.prlimit(program.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (files, hard))
        with crowd(port, 50):
            program.writes("no_file_left_for_a_connection")
            began = time.monotonic()
            count = wait_for(
                lambda: program.stderr.count("no_file_left_for_a_connection"),
                lambda count: count >= 4,
                seconds=60,
            )
            assert count <= time.monotonic() - began + 2
            assert "Traceback" not in program.stderr
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (files + 64, hard))
        wait_for(lambda: httpx.get(url, headers=key, timeout=60).status_code == 200, seconds=60)
    finally:
        program.kill()

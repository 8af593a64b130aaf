"""What a request costs the API, beside a bare FastAPI route that sends the same single query.

Rounds of both take turns. Our POST also starts a workflow, which the bare one does not.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import aiohttp

from bench.calls import Function, client
from bench.figures import Line, Sample, Section, line
from bench.parts import API_KEY, Servers, api, servers
from bench.programs import cpu_seconds, module

_AT_ONCE: Final = 10
_BARE: Final = "bare FastAPI"

Request = Callable[[], Awaitable[object]]


class _Measured:
    """One kind of request to one server, over several rounds."""

    def __init__(self, pid: int, request: Request) -> None:
        self._pid = pid
        self._request = request
        self.rates: list[float] = []
        self.cpu: list[float] = []
        self.latencies: list[float] = []

    async def one_round(self, count: int) -> None:
        """Send `count` requests, some at once, and note what they took."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one() -> None:
            async with gate:
                began = time.perf_counter()
                await self._request()
                self.latencies.append((time.perf_counter() - began) * 1000)

        before, began = cpu_seconds(self._pid), time.perf_counter()
        await asyncio.gather(*(one() for _ in range(count)))
        self.rates.append(count / (time.perf_counter() - began))
        self.cpu.append((cpu_seconds(self._pid) - before) / count * 1000)

    def forget(self) -> None:
        """Drop what was measured so far."""
        for values in (self.rates, self.cpu, self.latencies):
            values.clear()


async def requests(folder: Path, *, rounds: int, count: int) -> Section:
    """Measure `rounds` rounds of `count` requests of each kind."""
    async with (
        servers(folder / "requests") as given,
        api(given) as our_pid,
        client(given.api_url, API_KEY) as http,
        module("bench.bare_api", _address(given)) as (bare_pid, facts),
        aiohttp.ClientSession(base_url=facts["url"], raise_for_status=True) as bare,
    ):
        function = await _deploy(http)
        path = await function.call()
        async with bare.post("/functions/f/calls", json={"input": ""}) as answer:
            bare_path = f"/calls/{(await answer.json())['id']}"

        async def bare_get() -> None:
            async with bare.get(bare_path) as answer:
                await answer.json()

        async def bare_create() -> None:
            async with bare.post("/functions/f/calls", json={"input": ""}) as answer:
                await answer.json()

        kinds = {
            "get": (_Measured(our_pid, lambda: function.read(path)), _Measured(bare_pid, bare_get)),
            "create": (_Measured(our_pid, function.call), _Measured(bare_pid, bare_create)),
        }
        for pair in kinds.values():
            for measured in pair:
                await measured.one_round(max(20, count // 5))
                measured.forget()
            for _ in range(rounds):
                for measured in pair:
                    await measured.one_round(count)
    lines = [entry for name, pair in kinds.items() for entry in _lines(name, *pair)]
    return Section(title=f"6 API: requests, {_AT_ONCE} at once, beside {_BARE}", lines=lines)


def _lines(name: str, ours: _Measured, bare: _Measured) -> list[Line]:
    lines = []
    for what, unit, at, figures in (
        ("per second", "/s", 0.5, (ours.rates, bare.rates)),
        ("p50", "ms", 0.5, (ours.latencies, bare.latencies)),
        ("p99", "ms", 0.99, (ours.latencies, bare.latencies)),
        ("processor time", "ms", 0.5, (ours.cpu, bare.cpu)),
    ):
        own, base = Sample.of(figures[0]), Sample.of(figures[1])
        baseline = base.quantile(at)
        lines.append(line(f"{name}, bare: {what}", base, unit, at=at))
        lines.append(line(f"{name}: {what}", own, unit, at=at, to=(_BARE, baseline)))
    return lines


def _address(given: Servers) -> list[str]:
    registry = given.registry
    return [
        *("--host", registry.postgres_host),
        *("--port", str(registry.postgres_port)),
        *("--user", registry.postgres_user),
        *("--password", registry.postgres_password.get_secret_value()),
        *("--database", registry.postgres_db),
    ]


async def _deploy(http: aiohttp.ClientSession) -> Function:
    """Make a function that is never prepared: its calls are recorded, and stay in the queue."""
    spec = {
        "function_name": "noop",
        "resource_spec": {"virtual_cpus": 1, "memory_gbs": 1, "max_concurrency": 1},
        "execution_spec": {"max_retries": 0, "timeout_seconds": 600},
    }
    async with http.put("/projects/requests"):
        pass
    version = {"default_docker_image": "image", "functions": [spec]}
    async with http.post("/projects/requests/versions", json=version) as answer:
        version_id = (await answer.json())["version_id"]
    return Function(http, f"/projects/requests/versions/{version_id}/functions/noop/invocations")

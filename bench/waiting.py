"""Many invocations that wait or run: what they cost while nothing happens, and meanwhile reads.

The provisioner `dev` makes workers that are nothing real, so only the control plane is measured.
"""

import asyncio
import time
from pathlib import Path
from typing import Final

from bench.calls import Function, client, deploy
from bench.database import rows
from bench.figures import Line, Sample, Section, line
from bench.parts import API_KEY, Servers, api, command, servers
from bench.programs import cpu_seconds, memory_mb

_AT_ONCE: Final = 20
_LARGEST_LIMIT: Final = 100
"""`max_concurrency` of a function goes up to here."""
_COUNT: Final = """
    SELECT count(*) FILTER (WHERE phase <> 'QUEUED'),
           count(*) FILTER (WHERE phase = 'QUEUED' AND queue_reason = 'function_limit')
    FROM invocations
"""


async def waiting(folder: Path, *, queued: int, running: int, idle_seconds: float) -> Section:
    """Measure with so many invocations, after they have all got where they stay."""
    async with (
        servers(folder / "waiting") as given,
        api(given) as api_pid,
        command("worker", "--provisioner", "dev", given=given) as worker_pid,
        client(given.api_url, API_KEY) as http,
    ):
        pids = {
            "API": api_pid,
            "Temporal worker": worker_pid,
            "postgres": given.postgres_pid,
            "temporal": given.temporal_pid,
        }
        functions = [
            await deploy(http, f"wait-{number}", limit=limit, timeout_seconds=86_400)
            for number, limit in enumerate(_limits(running))
        ]
        function = functions[0]
        empty = {name: memory_mb(pid) for name, pid in pids.items()}
        began = time.perf_counter()
        first = await function.call()
        alone = await _latencies(function, first, seconds=idle_seconds / 4)
        # Most wait for the first function, as if it were the one that is in demand.
        first_limit = _limits(running)[0]
        await function.call_many(queued + first_limit - 1, at_once=_AT_ONCE)
        await _settled(given, queued=queued, running=first_limit)
        cpu_of_few = await _idle(pids, seconds=idle_seconds)
        began += idle_seconds
        for other, limit in zip(functions[1:], _limits(running)[1:], strict=True):
            await other.call_many(limit, at_once=_AT_ONCE)
        accepted = time.perf_counter() - began
        await _settled(given, queued=queued, running=running)
        settled = time.perf_counter() - began
        cpu = await _idle(pids, seconds=idle_seconds)
        memory = {name: memory_mb(pid) for name, pid in pids.items()}
        crowded = await _latencies(function, first, seconds=idle_seconds / 4)
    lines = [
        Line(name="accepting them all", unit="s", value=accepted),
        Line(name="until each waits or runs", unit="s", value=settled),
    ]
    for name in pids:
        ratio = memory[name] / empty[name]
        lines.append(
            Line(
                name=f"memory: {name}", unit="MB", value=memory[name], baseline="empty", ratio=ratio
            )
        )
    lines.append(_together("memory", "MB", memory, at_most=600))
    for runs, figures, at_most in ((first_limit, cpu_of_few, 5.0), (running, cpu, None)):
        what = f"idle, {runs:,} run"
        lines += [Line(name=f"{what}: {name}", unit="% core", value=figures[name]) for name in pids]
        lines.append(_together(what, "% core", figures, at_most=at_most))
    for name, few in alone.items():
        many = crowded[name]
        lines.append(line(f"{name}: p50", many, "ms", to=("with one", few.p50)))
        lines.append(line(f"{name}: p99", many, "ms", at=0.99, to=("with one", few.p99)))
    return Section(title=f"4 {queued:,} queued and {running:,} running invocations", lines=lines)


def _limits(running: int) -> list[int]:
    """Give limits of functions that let so many run together."""
    whole, rest = divmod(running, _LARGEST_LIMIT)
    return [_LARGEST_LIMIT] * whole + ([rest] if rest else [])


async def _idle(pids: dict[str, int], *, seconds: float) -> dict[str, float]:
    """Give the processor time of each while nothing changes, in percent of a core."""
    before = {name: cpu_seconds(pid, children=True) for name, pid in pids.items()}
    await asyncio.sleep(seconds)
    return {
        name: (cpu_seconds(pid, children=True) - before[name]) / seconds * 100
        for name, pid in pids.items()
    }


def _together(what: str, unit: str, figures: dict[str, float], *, at_most: float | None) -> Line:
    value = figures["API"] + figures["Temporal worker"]
    return Line(
        name=f"{what}: API and Temporal worker",
        unit=unit,
        value=value,
        target=None if at_most is None else f"<= {at_most:g}",
        met=None if at_most is None else value <= at_most,
    )


async def _settled(given: Servers, *, queued: int, running: int) -> None:
    while True:
        [(runs, waits)] = await rows(given.registry, _COUNT)
        if (runs, waits) == (running, queued):
            return
        await asyncio.sleep(0.5)


async def _latencies(function: Function, path: str, *, seconds: float) -> dict[str, Sample]:
    """Read an invocation and a page of them, in turns, for a while; milliseconds."""
    get: list[float] = []
    page: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        await function.read(path)
        get.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        async with function.http.get(function.path) as answer:
            await answer.read()
        page.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.005)
    return {"get": Sample.of(get), "page of 50": Sample.of(page)}

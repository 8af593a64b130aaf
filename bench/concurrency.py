"""Many calls at once of a function that takes a second, through a limit: is the limit kept busy?"""

import os
import time
from pathlib import Path
from typing import Final

from bench.calls import client, deploy
from bench.database import rows
from bench.figures import Line, Sample, Section, line
from bench.imports import python_start
from bench.stacks import stack

_PROJECT: Final = '''"""Sleeps."""

import time


def sleep():
    """Take a second."""
    time.sleep(1)
'''
_LIFE: Final = """
    SELECT extract(epoch FROM e.created_at)::float, extract(epoch FROM e.started_at)::float,
           extract(epoch FROM e.terminated_at)::float
    FROM executions e JOIN functions f ON f.id = e.function_id
    WHERE f.name = 'sleep' ORDER BY e.created_at
"""


async def concurrency(folder: Path, *, rounds: int, count: int, limit: int) -> Section:
    """Measure `rounds` rounds of `count` calls, of which `limit` may run at once."""
    project = folder / "sleeping"
    project.mkdir()
    (project / "main.py").write_text(_PROJECT)
    walls: list[float] = []
    starts: list[float] = []
    cpu: list[float] = []
    peaks: list[float] = []
    async with (
        stack(folder / "concurrency", provisioner="process") as running,
        client(running.api_url, running.api_key) as http,
    ):
        function = await deploy(http, "sleep", image=project.as_uri(), limit=limit)
        await function.until_terminated(await function.call())
        for _ in range(rounds):
            starts.append(sum(python_start() for _ in range(20)) / 20)
            before, known = running.cpu(), len(await rows(running.registry, _LIFE))
            began = time.perf_counter()
            await function.call_many(count, at_once=50)
            await function.until_none_runs()
            walls.append(time.perf_counter() - began)
            spent = sum(running.cpu().values()) - sum(before.values())
            cpu.append(spent / count * 1000)
            lives = (await rows(running.registry, _LIFE))[known:]
            peaks.append(float(_most_at_once([(life[0], life[2]) for life in lives])))
    ideal = -(-count // limit) * 1.0
    # Each process is an interpreter and a shim before it: two starts, on so many processors.
    with_starts = ideal + count * 2 * Sample.of(starts).p50 / _processors()
    lines = [
        Line(name=f"ideal: {count} of 1 s, {limit} at once", unit="s", value=ideal),
        Line(name="ideal with two Python starts for each", unit="s", value=with_starts),
        line("until all are TERMINATED", Sample.of(walls), "s", to=("ideal", with_starts)),
        line("most at once (never above the limit)", Sample.of(peaks), ""),
        line("processor time of control plane, each", Sample.of(cpu), "ms"),
    ]
    return Section(title=f"3 {count} calls at once of a 1 s function, limit {limit}", lines=lines)


def _processors() -> int:
    return len(os.sched_getaffinity(0))


def _most_at_once(spans: list[tuple[float, float]]) -> int:
    """Give how many of these spans of time overlap at most."""
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most

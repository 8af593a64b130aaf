"""Lines of a worker's output, until a follower has them: how many a second, and how late each.

The baseline is the same program's output through a pipe. The follower asks again at once while
there are lines, and 50 ms later when there were none.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import Final

from bench.calls import Function, client, deploy
from bench.figures import Sample, Section, line
from bench.stacks import stack

_PAUSE: Final = 0.05
_LINES: Final = 10_000
_TICKS: Final = 100
_PROJECT: Final = f'''"""Prints."""

import time


def burst():
    """Print much at once."""
    for number in range({_LINES}):
        print(f"{{time.time():.6f}} a line of a usual length, number {{number}} of {_LINES}")


def ticks():
    """Print a line every 50 ms."""
    for number in range({_TICKS}):
        print(f"{{time.time():.6f}} tick {{number}}", flush=True)
        time.sleep(0.05)
'''


async def logs(folder: Path, *, rounds: int) -> Section:
    """Measure `rounds` bursts, and one run of ticks."""
    project = folder / "printing"
    project.mkdir()
    (project / "main.py").write_text(_PROJECT)
    rates: list[float] = []
    pipes: list[float] = []
    async with (
        stack(folder / "logs", provisioner="process") as running,
        client(running.api_url, running.api_key) as http,
    ):
        burst = await deploy(http, "burst", image=project.as_uri())
        ticks = await deploy(http, "ticks", image=project.as_uri())
        for _ in range(rounds):
            pipes.append(_LINES / await _pipe(project))
            seen = await _follow(burst)
            printed = float(seen[0][1].split(" ", 1)[0])
            rates.append(len(seen) / (seen[-1][0] - printed))
        late = [at - float(text.split(" ", 1)[0]) for at, text in await _follow(ticks)]
    delays = Sample.of([seconds * 1000 for seconds in late])
    baseline = Sample.of(pipes)
    return Section(
        title="7 output of a worker, until a follower has it",
        lines=[
            line(f"{_LINES:,} lines through a pipe", baseline, "/s"),
            line("the same to a follower", Sample.of(rates), "/s", to=("a pipe", baseline.p50)),
            line("delay of a line, p50", delays, "ms"),
            line("delay of a line, p99", delays, "ms", at=0.99),
        ],
    )


async def _pipe(project: Path) -> float:
    """Give the seconds from the first printed line to the last one read."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "import main; main.burst()"),
        cwd=project,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    first = None
    async for text in process.stdout:
        first = first or float(text.split(b" ", 1)[0])
    seconds = time.time() - (first or 0)
    await process.wait()
    return seconds


async def _follow(function: Function) -> list[tuple[float, str]]:
    """Call a function; returns each line of its output with the time at which it was here."""
    path = await function.call()
    seen = await function.read(path)
    while not seen["executions"]:
        await asyncio.sleep(0.01)
        seen = await function.read(path)
    url = f"{path}/executions/{seen['executions'][0]['execution_id']}/logs"
    offset: str | None = None
    lines: list[tuple[float, str]] = []
    while True:
        query = {} if offset is None else {"initial_offset": offset}
        async with function.http.get(url, params=query) as answer:
            page = await answer.json()
        now = time.time()
        lines += [(now, text) for text in page["log_lines"]]
        if page["next_offset"] is None and lines:
            return lines
        offset = page["next_offset"] or offset
        if not page["log_lines"]:
            await asyncio.sleep(_PAUSE)

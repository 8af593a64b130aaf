"""Programs that are measured: started as children of the bench, and what they take."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

Json = dict[str, Any]

_TICKS: Final = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int, *, children: bool = False) -> float:
    """Give the processor time that a process has used; 0 if it is gone.

    Args:
        pid: the process.
        children: count those that live below it, too.
    """
    total = 0.0
    for each in family(pid) if children else [pid]:
        with suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


def memory_mb(pid: int) -> float:
    """Give the memory of a process and of those below it, in MB; what they share counts once."""
    total = 0.0
    for each in family(pid):
        with suppress(OSError):
            for entry in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                if entry.startswith("Pss:"):
                    total += int(entry.split()[1]) / 1000
    return total


def family(pid: int) -> list[int]:
    """Give a process and all that descend from it."""
    found = [pid]
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += family(int(child))
    return found


def load_average() -> float:
    """Give how many processes want a processor, over the last minute."""
    return os.getloadavg()[0]


@asynccontextmanager
async def module(
    name: str, arguments: Sequence[str] = (), *, environment: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[int, Json]]:
    """Run a module of ours during the block; gives its pid and the JSON line that it says first.

    It ends when its standard input does.

    Raises:
        RuntimeError: it ended before it said anything; its errors are on our standard error.
    """
    settings = {**os.environ, **(environment or {})}
    # As installed software runs: with its modules compiled.
    settings.pop("PYTHONDONTWRITEBYTECODE", None)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        name,
        *arguments,
        env=settings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = await process.stdout.readline()
        if not said:
            raise RuntimeError(f"{name} has ended with {await process.wait()}")
        yield process.pid, json.loads(said)
    finally:
        with suppress(OSError):
            process.stdin.close()
        await process.wait()


def say(facts: Json) -> None:
    """Tell the parent what it waits for, as one of `module`'s children."""
    print(json.dumps(facts), flush=True)


async def until_told_to_stop() -> None:
    """Wait for the end of standard input, as one of `module`'s children."""
    await asyncio.to_thread(sys.stdin.buffer.read)

"""Measures what the control plane costs, as ratios to baselines that run beside it.

Prints one table. `make bench` takes less than five minutes, `make bench-full` takes what it takes.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.cold_start import cold_start
from bench.concurrency import concurrency
from bench.figures import Section, as_json, print_table
from bench.imports import imports
from bench.limit import slot_handover
from bench.listing import listing
from bench.logs import logs
from bench.programs import load_average
from bench.requests import requests
from bench.throughput import throughput
from bench.transitions import transitions
from bench.waiting import waiting
from bench.warm_start import warm_start
from runtime.logging import configure_logging

Json = dict[str, Any]
Item = Callable[[Path], Awaitable[Section]]

SHORT: Final[dict[str, Item]] = {
    "transitions": transitions,
    "engine": lambda folder: throughput(folder, rounds=10, count=100),
    "cold-start": lambda folder: cold_start(folder, count=20),
    "warm-start": lambda folder: warm_start(folder, count=10),
    "concurrency": lambda folder: concurrency(folder, rounds=1, count=40, limit=20),
    "waiting": lambda folder: waiting(folder, queued=300, running=150, idle_seconds=10),
    "registry": lambda folder: listing(folder, sizes=(10_000, 100_000), repeats=6),
    "api": lambda folder: requests(folder, rounds=4, count=200),
    "logs": lambda folder: logs(folder, rounds=3),
    "slots": lambda folder: slot_handover(folder, count=30),
    "imports": lambda folder: imports(folder, count=10),
}
FULL: Final[dict[str, Item]] = {
    "transitions": transitions,
    "engine": lambda folder: throughput(folder, rounds=20, count=100),
    "cold-start": lambda folder: cold_start(folder, count=100),
    "warm-start": lambda folder: warm_start(folder, count=50),
    "concurrency": lambda folder: concurrency(folder, rounds=3, count=200, limit=100),
    "waiting": lambda folder: waiting(folder, queued=10_000, running=1_000, idle_seconds=60),
    "registry": lambda folder: listing(folder, sizes=(10_000, 1_000_000), repeats=20),
    "api": lambda folder: requests(folder, rounds=8, count=1_000),
    "logs": lambda folder: logs(folder, rounds=5),
    "slots": lambda folder: slot_handover(folder, count=100),
    "imports": lambda folder: imports(folder, count=40),
}


def _machine() -> Json:
    model = ""
    for entry in Path("/proc/cpuinfo").read_text().splitlines():
        if entry.startswith("model name"):
            model = entry.partition(":")[2].strip()
    return {
        "processors": len(os.sched_getaffinity(0)),
        "model": model,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


async def _main(items: dict[str, Item], output: Path | None) -> None:
    machine, began = _machine(), datetime.now(UTC)
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    sections: dict[str, Section] = {}
    measured: dict[str, Json] = {}
    with tempfile.TemporaryDirectory(prefix="control-plane-bench-") as name:
        # Workers run as another user, who needs to pass through it.
        Path(name).chmod(0o711)
        for item, measure in items.items():
            clock, load = time.perf_counter(), load_average()
            sections[item] = await measure(Path(name))
            took = time.perf_counter() - clock
            loads = f"load {load:.1f} before, {load_average():.1f} after"
            print(f"{item}: {took:.0f} s, {loads}", file=sys.stderr)
            measured[item] = {
                "seconds": took,
                "load_before": load,
                "load_after": load_average(),
                "figures": as_json(sections[item]),
            }
    print_table(list(sections.values()))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        figures = {"began": began.isoformat(), "machine": machine, "items": measured}
        output.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--full", action="store_true", help="the large sizes; takes much longer")
    parser.add_argument(
        "--only", action="append", choices=list(SHORT), help="this item; repeatable"
    )
    parser.add_argument("--output", type=Path, help="write the figures as JSON too")
    arguments = parser.parse_args()
    configure_logging(level="ERROR")
    chosen = FULL if arguments.full else SHORT
    wanted = arguments.only or list(chosen)
    asyncio.run(_main({name: chosen[name] for name in wanted}, arguments.output))

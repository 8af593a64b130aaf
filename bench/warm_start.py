"""From provisioning to the user's first line, with a warm parent and without.

Provisioning begins when Temporal has given the activity to the Temporal worker. One function
imports next to nothing, the other a good part of the standard library.
"""

import asyncio
from pathlib import Path
from typing import Final

from temporalio.client import Client

from bench.calls import client, deploy
from bench.cold_start import PROJECT, PYTHON, between_times, one_call
from bench.figures import Line, Sample, Section, line
from bench.imports import python_start
from bench.stacks import stack
from core.temporal.client import connect_config

_IMPORTS: Final = {
    "nothing": "",
    "much": "import concurrent.futures, asyncio\n"
    "import decimal, email.message, http.server, ssl, sqlite3\n"
    "import logging.config, unittest.mock, urllib.request, xml.dom.minidom, xmlrpc.client\n",
}
_MOST_MILLISECONDS: Final = 30.0


async def warm_start(folder: Path, *, count: int) -> Section:
    """Measure `count` calls of each kind, by turns with the baseline."""
    baseline: list[float] = []
    calls: dict[tuple[str, int], list[dict[str, float]]] = {}
    async with (
        stack(folder / "warm-start", provisioner="process") as running,
        client(running.api_url, running.api_key) as http,
    ):
        temporal = await Client.connect(**connect_config(running.temporal))
        functions = {}
        for imports, statement in _IMPORTS.items():
            for warm in (0, 1):
                project = folder / f"{imports}-{warm}"
                project.mkdir()
                code = PROJECT.replace("\nimport json", f"\n{statement}import json")
                (project / "main.py").write_text(code)
                (project / "control-plane.toml").write_text(f"warm = {warm}\n")
                function = await deploy(http, "noop", project=project.name, image=project.as_uri())
                functions[imports, warm] = function
                # The parent starts beside the first call; and bytecode is written.
                for _ in range(50):
                    times = await one_call(running, function, temporal)
                    if _is_warm(times) == bool(warm):
                        break
        for _ in range(count):
            baseline.append(await asyncio.to_thread(python_start) * 1000)
            for kind, function in functions.items():
                times = await one_call(running, function, temporal)
                if _is_warm(times) != bool(kind[1]):
                    raise RuntimeError(f"a call of {kind} was started as the others are")
                calls.setdefault(kind, []).append(times)
    python = Sample.of(baseline)
    lines = [line("fork and exec of python -c pass", python, "ms")]
    for (imports, warm), seen in calls.items():
        name = f"{'warm' if warm else 'cold'}, imports {imports}"
        lines += _lines(name, seen, python, warm=warm)
    return Section(title="2b cold and warm starts, process provisioner", lines=lines)


def _is_warm(times: dict[str, float]) -> bool:
    """Say whether the user's modules were imported before there was the process."""
    return times["imported"] < times["process"]


def _lines(name: str, calls: list[dict[str, float]], python: Sample, *, warm: int) -> list[Line]:
    first = between_times(calls, "provisioning", "call")
    at_most = _MOST_MILLISECONDS if warm else None
    return [
        line(f"{name}: provisioning to the first line", first, "ms", at_most=at_most),
        line("  p90", first, "ms", at=0.9),
        line(
            "  POST to the first line",
            between_times(calls, "sent", "call"),
            "ms",
            to=(PYTHON, python.p50),
        ),
    ]

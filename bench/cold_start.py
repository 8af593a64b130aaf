"""From POST to the user's first line, and to the end, with the process provisioner.

The baseline is fork and exec of `python -c pass`, before each call. The phases are told apart by
times that the parts note down themselves: the client, Temporal's history, the registry and the
user's function. All of them read the clock of one machine.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from bench.calls import Function, client, deploy
from bench.database import rows
from bench.figures import Sample, Section, line
from bench.imports import python_start
from bench.stacks import RunningStack, stack
from core.temporal.client import connect_config

_WARM_UP: Final = 3
PYTHON: Final = "python"
PROJECT: Final = '''"""Says when its parts ran."""

import time

_MODULE = time.time()

import json
import os


def _process_start():
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age


_IMPORTED = time.time()


def noop():
    """Give the times."""
    call = time.time()
    return {"process": _process_start(), "module": _MODULE, "imported": _IMPORTED, "call": call}
'''
_ROW: Final = """
    SELECT extract(epoch FROM i.created_at)::float, extract(epoch FROM e.created_at)::float,
           extract(epoch FROM e.finished_at)::float, extract(epoch FROM i.terminated_at)::float
    FROM invocations i JOIN executions e ON e.invocation_id = i.id WHERE i.id = %(id)s
"""
_PHASES: Final = (
    ("accept: POST until its row", "sent", "created"),
    ("start workflow", "created", "workflow"),
    ("open: admitted", "workflow", "opened"),
    ("Temporal hands it to the provisioner", "opened", "provisioning"),
    ("provision: until the process is there", "provisioning", "process"),
    ("interpreter and runner", "process", "module"),
    ("import of the user's module", "module", "imported"),
    ("start call", "imported", "call"),
    ("finish: until its outcome is recorded", "call", "finished"),
    ("close: worker gone, TERMINATED recorded", "finished", "terminated"),
    ("the caller who waits sees it", "terminated", "seen"),
)


async def cold_start(folder: Path, *, count: int) -> Section:
    """Measure `count` calls, one after the other."""
    project = folder / "cold"
    project.mkdir()
    (project / "main.py").write_text(PROJECT)
    calls: list[dict[str, float]] = []
    baseline: list[float] = []
    async with (
        stack(folder / "cold-start", provisioner="process") as running,
        client(running.api_url, running.api_key) as http,
    ):
        function = await deploy(http, "noop", image=project.as_uri())
        temporal = await Client.connect(**connect_config(running.temporal))
        for number in range(count + _WARM_UP):
            python = await asyncio.to_thread(python_start)
            times = await one_call(running, function, temporal)
            if number >= _WARM_UP:
                baseline.append(python * 1000)
                calls.append(times)
    return _section(Sample.of(baseline), calls)


async def one_call(running: RunningStack, function: Function, temporal: Client) -> dict[str, float]:
    """Call once; returns the time of each event, in seconds since 1970."""
    times = {"sent": time.time()}
    path = await function.call()
    times["answered"] = time.time()
    seen = await function.until_terminated(path)
    times["seen"] = time.time()
    times |= json.loads(seen["executions"][0]["output"])
    invocation_id = path.rpartition("/")[2]
    [(created, opened, finished, terminated)] = await rows(running.registry, _ROW, id=invocation_id)
    times |= {"created": created, "opened": opened}
    times |= {"finished": finished, "terminated": terminated}
    async for event in temporal.get_workflow_handle(invocation_id).fetch_history_events():
        at = event.event_time.ToNanoseconds() / 1e9
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
            times["workflow"] = at
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
            # The first one: the second watches the worker.
            times.setdefault("provisioning", at)
    return times


def between_times(calls: Sequence[dict[str, float]], earlier: str, later: str) -> Sample:
    """Give how long it took from one event to another, milliseconds."""
    return Sample.of([(call[later] - call[earlier]) * 1000 for call in calls])


def _section(python: Sample, calls: list[dict[str, float]]) -> Section:
    def between(earlier: str, later: str) -> Sample:
        return between_times(calls, earlier, later)

    unit = (PYTHON, python.p50)
    first_line = between("sent", "call")
    # The target is 4 starts of Python and 60 ms.
    limit = 4 + 60 / python.p50
    lines = [
        line("fork and exec of python -c pass", python, "ms"),
        line("POST answered", between("sent", "answered"), "ms", to=unit),
        line("POST to the user's first line", first_line, "ms", to=unit, at_most=round(limit, 1)),
        line("POST to the user's first line, p99", first_line, "ms", at=0.99, to=unit),
        line("POST to SUCCEEDED", between("sent", "finished"), "ms", to=unit),
        line("POST to TERMINATED", between("sent", "terminated"), "ms", to=unit),
    ]
    lines += [line(f"  {name}", between(earlier, later), "ms") for name, earlier, later in _PHASES]
    return Section(title="2 cold start of a no-op function, process provisioner", lines=lines)

"""Runs a control plane under load while its parts are killed, stopped and cut off; then checks it.

The seed decides what is called, what goes wrong and when; how it then comes about differs from run
to run. The exit code is 0 if every invariant holds. See docs/reliability.md.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from temporalio.client import Client as TemporalClient

from core.logging import configure_logging
from tests.chaos.client import Client
from tests.chaos.cluster import API_KEY, Cluster, Plane, running_cluster
from tests.chaos.evidence import count_open_workflows, gather_evidence
from tests.chaos.faults import Fault, plan_faults
from tests.chaos.invariants import Case, Finding, check
from tests.chaos.load import Load
from tests.chaos.report import say, say_faults, say_findings, say_recovery
from tests.chaos.tasks import TaskMaker
from tests.e2e.processes import processes_that_mention

PROJECT_FOLDER = Path(__file__).parent / "project"
_PER_SECOND = {"process": 2.0, "external": 0.7}
_AT_ONCE = 40
_SETTLE_SECONDS = 300.0
"""How long everything may take to come to its end after the last fault."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the caller chooses."""

    seed: int
    seconds: float
    """Length of the load."""
    longest: float
    """Seconds that a fault lasts at most."""


@dataclass(kw_only=True)
class Storm:
    """The faults of a run as they come about."""

    cluster: Cluster
    plan: Sequence[Fault]
    under_way: list[Fault] = field(default_factory=list)
    healed: list[tuple[Fault, float]] = field(default_factory=list)
    """Those that are over, with the time (of `time.monotonic`) of their end."""

    async def run(self) -> None:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in self.plan:
                await asyncio.sleep(began + fault.at - time.monotonic())
                group.create_task(self._run_one(fault))

    async def _run_one(self, fault: Fault) -> None:
        self.under_way.append(fault)
        ends_at = time.monotonic() + fault.seconds
        await self.cluster.begin(fault)
        await asyncio.sleep(ends_at - time.monotonic())
        self.cluster.end(fault)
        self.under_way.remove(fault)
        self.healed.append((fault, time.monotonic()))


async def run_chaos(options: Options, folder: Path) -> bool:
    """Do all of it in a folder; returns whether every invariant holds."""
    project = folder / "project"
    shutil.copytree(PROJECT_FOLDER, project)
    async with AsyncExitStack() as stack:
        cluster, temporal = await stack.enter_async_context(running_cluster(folder))
        plan = plan_faults(
            options.seed,
            seconds=options.seconds,
            longest=options.longest,
            targets=cluster.targets(),
        )
        storm = Storm(cluster=cluster, plan=plan)
        loads = {}
        for plane in cluster.planes:
            http = await stack.enter_async_context(
                aiohttp.ClientSession(
                    base_url=f"http://127.0.0.1:{plane.api.port}",
                    headers={"Authorization": f"Bearer {API_KEY}"},
                )
            )
            load = _load(plane, http, options=options, folder=folder)
            await load.deploy(project)
            loads[plane.name] = load
        say(f"{len(plan)} faults are planned, {options.seconds:g} s of load begin")
        settled = await _run_load(storm, list(loads.values()), options=options)
        findings = [Finding(invariant="everything came to its end", checked=1, breaches=settled)]
        for plane in cluster.planes:
            findings += await _judge(plane, loads[plane.name], temporal, cluster)
    say_faults(storm.healed, cluster.restarts())
    say_recovery(storm.healed, [one for load in loads.values() for one in load.accepted])
    return say_findings(findings)


def _load(plane: Plane, http: aiohttp.ClientSession, *, options: Options, folder: Path) -> Load:
    marks = folder / f"marks-{plane.name}"
    marks.mkdir()
    maker = TaskMaker(
        options.seed, marks=str(marks), name=plane.name, longest=min(options.longest, 40)
    )
    return Load(client=Client(http), tasks=maker.endlessly(), marks=marks, at_once=_AT_ONCE)


async def _run_load(storm: Storm, loads: Sequence[Load], *, options: Options) -> list[str]:
    """Call, disturb, heal, and wait for the end; returns what did not come to its end."""
    calling = asyncio.gather(
        *(
            load.run(seconds=options.seconds, per_second=per_second)
            for load, per_second in zip(loads, _PER_SECOND.values(), strict=True)
        )
    )
    progress = asyncio.create_task(_tell_progress(storm, loads))
    try:
        await storm.run()
        storm.cluster.heal_everything()
        say("the last fault is over")
        await asyncio.wait_for(calling, _SETTLE_SECONDS)
    except TimeoutError:
        return [
            f"{one.task.key} ({one.invocation_id}) has not ended {_SETTLE_SECONDS:g} s after the "
            "last fault"
            for load in loads
            for one in load.accepted
            if one.over_at is None
        ] or ["some calls were never answered"]
    finally:
        progress.cancel()
        storm.cluster.heal_everything()
    return []


async def _tell_progress(storm: Storm, loads: Sequence[Load]) -> None:
    began = time.monotonic()
    while True:
        await asyncio.sleep(10)
        accepted = sum(len(load.accepted) for load in loads)
        over = sum(load.over() for load in loads)
        now = ", ".join(map(str, storm.under_way)) or "none"
        say(f"{time.monotonic() - began:4.0f} s: {accepted} accepted, {over} over; faults: {now}")


async def _judge(
    plane: Plane, load: Load, temporal: TemporalClient, cluster: Cluster
) -> list[Finding]:
    open_workflows = await _until_none(
        lambda: count_open_workflows(temporal, control_queue=plane.control_queue)
    )
    evidence = await gather_evidence(
        plane.registry, temporal, control_queue=plane.control_queue, marks=load.marks
    )
    findings = check(Case(accepted=load.accepted, evidence=evidence))

    async def count_workers() -> int:
        return len(_workers(plane, cluster))

    left = await _until_none(count_workers)
    findings += [
        Finding(
            invariant="what callers saw on the way was right",
            checked=len(load.accepted) + load.acknowledged,
            breaches=load.breaches,
        ),
        Finding(
            invariant="no workflow is left open",
            checked=len(evidence.runs),
            breaches=[f"{open_workflows} are"] if open_workflows else [],
        ),
        Finding(
            invariant="no worker process is left",
            checked=sum(len(executions) for executions in evidence.executions.values()),
            breaches=[str(one) for one in _workers(plane, cluster).items()] if left else [],
        ),
    ]
    return [
        Finding(
            invariant=f"{plane.name}: {finding.invariant}",
            checked=finding.checked,
            breaches=finding.breaches,
        )
        for finding in findings
    ]


def _workers(plane: Plane, cluster: Cluster) -> dict[int, str]:
    own = cluster.pids()
    found = processes_that_mention(plane.state_folder)
    return {pid: arguments for pid, arguments in found.items() if pid not in own}


async def _until_none(count, *, seconds: float = 60) -> int:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while (left := await count()) and time.monotonic() < end:
        await asyncio.sleep(0.2)
    return left


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the plan and the calls; random if not given")
    parser.add_argument("--seconds", type=float, default=300, help="length of the load")
    parser.add_argument(
        "--longest", type=float, default=60, help="seconds that one fault lasts at most"
    )
    arguments = parser.parse_args()
    configure_logging(level="ERROR")
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed  # noqa: S311 - no secret
    options = Options(seed=seed, seconds=arguments.seconds, longest=arguments.longest)
    say(f"seed {seed}, {options.seconds:g} s of load, faults of up to {options.longest:g} s")
    folder = Path(tempfile.mkdtemp(prefix="control-plane-chaos-"))
    # Postgres may run as another user, who must get through to its own folder below.
    folder.chmod(0o711)
    good = False
    try:
        good = asyncio.run(run_chaos(options, folder))
    finally:
        if good:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            with suppress(OSError):
                say(f"what the processes have written is kept in {folder}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(_main())

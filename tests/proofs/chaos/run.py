"""A whole run: start everything, call, disturb, heal, wait for the end, and judge."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
from temporalio.client import Client as TemporalClient

from tests.proofs.chaos.client import Client
from tests.proofs.chaos.cluster import API_KEY, Cluster, Plane, running_cluster
from tests.proofs.chaos.evidence import count_open_workflows, gather_evidence
from tests.proofs.chaos.faults import Fault, one_by_one, plan_faults
from tests.proofs.chaos.invariants import Case, Finding, check
from tests.proofs.chaos.load import Load
from tests.proofs.chaos.report import say, say_faults, say_findings, say_recovery
from tests.proofs.chaos.storm import Storm
from tests.proofs.chaos.tasks import TaskMaker
from tests.support.folders import open_to_all
from tests.support.stack.processes import processes_that_mention

PROJECT_FOLDER = Path(__file__).parent / "project"
_PER_SECOND = {"process": 2.0, "external": 0.7}
_LONGEST_WORK_SECONDS = 40.0
_SETTLE_SECONDS = 300.0
"""How long everything may take to come to its end after the last fault."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the caller chooses."""

    seed: int
    seconds: float = 0
    """Length of the load; 0 for each fault once, one after another."""
    longest: float
    """Seconds that a fault lasts at most; one after another: that each lasts."""


async def run_chaos(options: Options, folder: Path) -> bool:
    """Do all of it in a folder; returns whether every invariant holds."""
    project = folder / "project"
    shutil.copytree(PROJECT_FOLDER, project)
    async with AsyncExitStack() as stack:
        cluster, temporal = await stack.enter_async_context(running_cluster(folder))
        storm = Storm(cluster=cluster, plan=_plan(cluster, options))
        loads = {}
        for plane in cluster.planes:
            http = aiohttp.ClientSession(
                base_url=f"http://127.0.0.1:{plane.api.port}",
                headers={"Authorization": f"Bearer {API_KEY}"},
            )
            await stack.enter_async_context(http)
            loads[plane.name] = _load(plane, http, options=options, folder=folder)
            await loads[plane.name].deploy(project)
        say(f"everything runs; {len(storm.plan)} faults follow")
        settled = await _disturb(storm, loads, options=options)
        findings = [Finding(invariant="everything came to its end", checked=1, breaches=settled)]
        for plane in cluster.planes:
            findings += await _judge(plane, loads[plane.name], temporal, cluster)
    say_faults([healed.fault for healed in storm.healed], cluster.restarts())
    say_recovery(storm.recovery(list(loads.values())))
    return say_findings(findings)


def _plan(cluster: Cluster, options: Options) -> list[Fault]:
    targets = cluster.targets()
    if not options.seconds:
        return one_by_one(seconds=options.longest, targets=targets)
    return plan_faults(
        options.seed, seconds=options.seconds, longest=options.longest, targets=targets
    )


def _load(plane: Plane, http: aiohttp.ClientSession, *, options: Options, folder: Path) -> Load:
    marks = folder / f"marks-{plane.name}"
    marks.mkdir()
    open_to_all(marks)
    maker, probes = (
        TaskMaker(
            options.seed,
            marks=str(marks),
            name=name,
            longest=min(options.longest, _LONGEST_WORK_SECONDS),
        )
        for name in (plane.name, f"{plane.name}-probe")
    )
    return Load(
        client=Client(http),
        tasks=maker.mixed() if options.seconds else maker.plain(),
        probes=probes.plain(),
        marks=marks,
    )


async def _disturb(storm: Storm, loads: Mapping[str, Load], *, options: Options) -> list[str]:
    """Call and disturb, heal, and wait for the end; returns what did not come to its end."""
    all_loads = list(loads.values())
    calling = asyncio.gather(
        *(load.run(per_second=_PER_SECOND[name]) for name, load in loads.items())
    )
    progress = asyncio.create_task(storm.tell_progress(all_loads))
    lasting: list[str] = []
    try:
        if options.seconds:
            end = time.monotonic() + options.seconds
            await storm.run()
            await asyncio.sleep(end - time.monotonic())
        else:
            lasting = await storm.run_one_by_one(all_loads)
        for load in all_loads:
            load.stop()
        healed_at = time.monotonic()
        say("the last fault is over")
        await asyncio.wait_for(calling, _SETTLE_SECONDS)
        say(f"everything has ended {time.monotonic() - healed_at:.1f} s later")
    except TimeoutError:
        lasting += [
            f"{one.task.key} ({one.invocation_id}) has not ended {_SETTLE_SECONDS:g} s after the "
            "last fault"
            for load in all_loads
            for one in load.accepted
            if one.over_at is None
        ] or ["some calls were never answered"]
    finally:
        progress.cancel()
        calling.cancel()
        storm.cluster.heal_everything()
    return lasting


async def _judge(
    plane: Plane, load: Load, temporal: TemporalClient, cluster: Cluster
) -> list[Finding]:
    async def count_workflows() -> int:
        return await count_open_workflows(temporal, control_queue=plane.control_queue)

    async def count_workers() -> int:
        return len(_workers(plane, cluster))

    open_workflows = await _until_none(count_workflows)
    workers_left = await _until_none(count_workers)
    evidence = await gather_evidence(
        plane.registry, temporal, control_queue=plane.control_queue, marks=load.marks
    )
    findings = [
        *check(Case(accepted=load.accepted, evidence=evidence)),
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
            checked=sum(map(len, evidence.executions.values())),
            breaches=list(map(str, _workers(plane, cluster).items())) if workers_left else [],
        ),
    ]
    return [replace(one, invariant=f"{plane.name}: {one.invariant}") for one in findings]


def _workers(plane: Plane, cluster: Cluster) -> dict[int, str]:
    """Give the processes of workers: they name its state folder, and are none of ours."""
    own = cluster.pids()
    found = processes_that_mention(plane.state_folder)
    return {pid: arguments for pid, arguments in found.items() if pid not in own}


async def _until_none(count: Callable[[], Awaitable[int]], *, seconds: float = 60) -> int:
    """Count again and again until there is none; returns how many there are at the end."""
    end = time.monotonic() + seconds
    left = await count()
    while left and time.monotonic() < end:
        await asyncio.sleep(0.2)
        left = await count()
    return left

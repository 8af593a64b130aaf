"""Two provisioner kinds in one deployment: where a function runs is the function's own.

Both Temporal workers serve the control queue, so either of them may run the local activities of
any invocation.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select, update
from temporalio.client import Client

from core.settings import TemporalSettings, TemporalWorkerSettings
from core.temporal.client import connect
from core.temporal.queues import control_queue
from provisioners.dev import DevProvisioner
from registry.database.engine import Registry
from registry.database.tables import Execution, Function, Invocation
from tests.replay.cases.repairs import start_again
from tests.support.harness import (
    ControlPlane,
    function_spec,
    parts_for,
    running_control_plane,
)
from tests.support.scripted_provisioner import ScriptedProvisioner
from tests.support.sweeping import NOTHING, insert_row
from worker.build import temporal_worker

CALLS = 8
HERE = function_spec("here")
"""Names no pool: it runs in the API's, which is `scripted`."""
THERE = {**function_spec("there"), "pool": "dev"}


@pytest.fixture
async def plane(
    registry: Registry,
    temporal_client: Client,
    temporal_settings: TemporalSettings,
    task_queue: str,
) -> AsyncIterator[ControlPlane]:
    """An API, a Temporal worker of `scripted` and one of `dev`, on one prefix."""
    # A client takes one Temporal worker for a task queue.
    other_client = await connect(temporal_settings)
    async with (
        running_control_plane(
            registry, temporal_client, task_queue, provisioner=ScriptedProvisioner()
        ) as plane,
        temporal_worker(
            parts_for(registry, other_client, task_queue),
            provisioner=DevProvisioner(lag=1, pause=0.05),
            settings=TemporalWorkerSettings(termination_grace_seconds=1, sweep_interval_seconds=0),
        ),
    ):
        yield plane


async def pools_of_rows(registry: Registry) -> set[tuple[str, str, str | None, str]]:
    """Each function's name with the pool in its own row, its invocations' and its executions'."""
    async with registry.autocommit() as session:
        rows = await session.execute(
            select(Function.name, Invocation.pool, Function.pool, Execution.pool)
            .join(Invocation, Invocation.function_id == Function.id)
            .join(Execution, Execution.invocation_id == Invocation.id)
        )
        return {(name, own, functions, run) for name, own, functions, run in rows}


async def test_each_function_runs_in_its_own_pool_whoever_opens_its_executions(
    plane: ControlPlane, registry: Registry
) -> None:
    await plane.deploy(HERE, THERE)
    paths = {name: [await plane.invoke(name) for _ in range(CALLS)] for name in ("here", "there")}
    for path in paths["here"]:
        run = await plane.until_worker_runs(path)
        assert run.worker.request.function_name == "here"
        await run.play("SUCCEEDED")
    for path in paths["there"]:
        run = await plane.until_worker_runs(path)
        await run.start()
        await run.finish("SUCCEEDED")

    over = {
        name: await asyncio.gather(*(plane.until_terminated(path) for path in some))
        for name, some in paths.items()
    }
    for name, kind in (("here", "scripted"), ("there", "dev")):
        assert [seen["phase"] for seen in over[name]] == ["SUCCEEDED"] * CALLS
        workers = [seen["executions"][0]["worker"]["provisioner"] for seen in over[name]]
        assert workers == [kind] * CALLS
    assert len(plane.provisioner.workers) == CALLS
    assert plane.provisioner.prepared == ["here"]
    assert await pools_of_rows(registry) == {
        ("here", "scripted", "scripted", "scripted"),
        ("there", "dev", "dev", "dev"),
    }


async def test_a_versions_answer_names_the_pool_of_each_function(plane: ControlPlane) -> None:
    await plane.deploy(HERE, THERE)
    version = await plane.get(plane.version_path)
    assert {function["function_name"]: function["pool"] for function in version["functions"]} == {
        "here": "scripted",
        "there": "dev",
    }


async def test_a_cancel_ends_a_worker_where_it_is(plane: ControlPlane) -> None:
    await plane.deploy(HERE, THERE)
    there = await plane.invoke("there")
    run = await plane.until_worker_runs(there)
    await run.start()
    await plane.call("PUT", f"{there}/cancel")
    await plane.until(there, lambda seen: seen["phase"] == "CANCELLING")
    # A dev worker goes on until it reports.
    await run.finish("ABORTED")
    assert (await plane.until_terminated(there))["phase"] == "CANCELLED"
    assert plane.provisioner.workers == {}


async def test_the_answer_says_where_and_not_how_the_workflow_was_started(
    plane: ControlPlane, registry: Registry
) -> None:
    """Also where an execution of an earlier run is still open: its worker is ended there."""
    await plane.deploy({**THERE, "execution_spec": {"max_retries": 5, "timeout_seconds": 60}})
    path = await insert_row(registry, plane, function="there")
    invocation_id = path.rsplit("/", 1)[1]
    queue = control_queue(plane.task_queue)
    await start_again(plane.temporal, invocation_id, queue, deadline_in=60, pool="scripted")
    stale = await plane.until_worker_runs(path)
    await stale.start()

    await plane.temporal.get_workflow_handle(invocation_id).terminate("by hand")
    await start_again(plane.temporal, invocation_id, queue, deadline_in=60, pool="scripted")
    # A dev worker goes on until it reports.
    await stale.finish("FAILED", error="ended")
    run = await plane.until_worker_runs(path, attempt=2)
    await run.start()
    await run.finish("SUCCEEDED")

    over = await plane.until_terminated(path)
    assert over["phase"] == "SUCCEEDED"
    assert [e["worker"]["provisioner"] for e in over["executions"]] == ["dev", "dev"]
    assert plane.provisioner.workers == {}
    # Nor was it asked to end one.
    assert plane.provisioner.forbidden == set()


async def test_a_pool_that_is_not_served_holds_up_no_other(plane: ControlPlane) -> None:
    """However many functions of it wait to be prepared."""
    unserved = [{**function_spec(f"a-{number}"), "pool": "nowhere"} for number in range(21)]
    await plane.deploy(*unserved, HERE)
    await plane.until(
        plane.version_path,
        lambda seen: (
            {
                function["function_name"]
                for function in seen["functions"]
                if function["function_status"] == "READY"
            }
            == {"here"}
        ),
    )


async def test_a_sweep_looks_at_its_own_pool_and_starts_things_in_theirs(
    plane: ControlPlane, registry: Registry
) -> None:
    await plane.deploy(HERE, THERE)
    for name in ("here", "there"):
        path = await plane.invoke(name)
        run = await plane.until_worker_runs(path)
        await run.start()
        await run.finish("SUCCEEDED")
        if name == "here":
            run.worker.end()
        await plane.until_terminated(path)
    # As an API does that ends before it has started the workflow.
    lost = await insert_row(registry, plane, function="there")
    async with registry.transaction() as session:
        await session.execute(
            update(Invocation).where(Invocation.id == lost.rsplit("/", 1)[1]).values(pool="dev")
        )
    assert await plane.sweep(grace=0) == NOTHING
    assert "1 invocations started" in await plane.sweep(grace=0, pool="dev")
    run = await plane.until_worker_runs(lost)
    seen = await plane.get(run.path)
    assert seen["worker"]["provisioner"] == "dev"
    await run.start()
    await run.finish("SUCCEEDED")
    assert (await plane.until_terminated(lost))["phase"] == "SUCCEEDED"


async def test_the_sweep_of_a_functions_pool_starts_a_lost_preparation(
    plane: ControlPlane, registry: Registry
) -> None:
    """Also where the version's default is another pool, of which nothing is to be prepared."""
    plane.provisioner.may_prepare.clear()
    await plane.deploy(THERE)
    version_id = plane.version_path.rsplit("/", 1)[1]
    await plane.until(
        plane.version_path,
        lambda seen: seen["functions"][0]["function_status"] == "READY",
    )
    async with registry.transaction() as session:
        await session.execute(
            update(Function)
            .where(Function.version_id == version_id)
            .values(preparation_status="PENDING")
        )
    assert await plane.sweep(grace=0) == NOTHING
    assert "1 preparations" in await plane.sweep(grace=0, pool="dev")
    await plane.until(
        plane.version_path,
        lambda seen: seen["functions"][0]["function_status"] == "READY",
    )


async def test_a_function_without_a_pool_runs_in_its_versions(
    plane: ControlPlane, registry: Registry
) -> None:
    """Rows of servers that knew no pools."""
    await plane.deploy(HERE)
    async with registry.transaction() as session:
        await session.execute(update(Function).values(pool=None))
    path = await plane.invoke("here")
    await (await plane.until_worker_runs(path)).play("SUCCEEDED")
    assert (await plane.until_terminated(path))["phase"] == "SUCCEEDED"
    assert await pools_of_rows(registry) == {("here", "scripted", None, "scripted")}
    (function,) = (await plane.get(plane.version_path))["functions"]
    assert function["pool"] == "scripted"

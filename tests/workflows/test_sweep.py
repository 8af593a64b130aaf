"""The sweep: invocations without a workflow, and what Temporal has lost."""

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import delete, event, update
from sqlalchemy.exc import OperationalError
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment

from activities.sweep import SweepActivities
from core.clock import utc_now
from core.messages import SweepRequest
from core.settings import RegistrySettings, TemporalSettings
from core.states import Phase
from core.temporal.client import SEARCH_ATTRIBUTES, connect
from core.temporal.names import WAKE_SIGNAL
from core.temporal.states import WorkflowStates
from registry.database.engine import Registry
from registry.database.tables import Execution, Function, Invocation
from standalone.temporal.open_server import OpenTemporal
from tests.support.harness import (
    LIMITED,
    RETRYABLE,
    STANDARD,
    ControlPlane,
    Json,
    eventually,
    parts_for,
    running_control_plane,
)
from tests.support.sweeping import (
    NOTHING,
    id_of,
    insert_row,
    is_ready,
    lose_workflow,
    sweep_until,
    waits_for_a_slot,
    write,
)


async def test_a_healthy_control_plane_is_left_alone(control_plane: ControlPlane) -> None:
    plane = control_plane
    await plane.deploy(STANDARD, LIMITED, RETRYABLE)
    running = [await plane.invoke(name) for name in ("standard", "limited", "retryable")]
    runs = [await plane.until_worker_runs(path) for path in running]
    waiting = await plane.invoke("limited")
    await plane.until(waiting, waits_for_a_slot)
    before = await plane.get(waiting)

    # Temporal's list may not have the youngest of them; then it is looked at and left alone.
    assert await plane.sweep() == NOTHING

    assert await plane.get(waiting) == before
    assert [run.worker.terminations for run in runs] == [0, 0, 0]
    for run in runs:
        await run.play("SUCCEEDED")
    await (await plane.until_worker_runs(waiting)).play("SUCCEEDED")
    for path in [*running, waiting]:
        assert len((await plane.until_terminated(path))["executions"]) == 1
    assert await plane.sweep() == NOTHING


async def test_an_invocation_without_a_workflow_is_started(
    control_plane: ControlPlane, registry: Registry
) -> None:
    """An API that died between the row and the workflow; a Temporal that was away."""
    plane = control_plane
    await plane.deploy(STANDARD)
    path = await insert_row(registry, plane, function="standard")

    assert await plane.sweep(grace=3600) == NOTHING, "it is left to the API for a while"
    assert await plane.sweep(grace=0) == "1 invocations started that had no workflow"

    await (await plane.until_worker_runs(path)).play("SUCCEEDED", output="1")
    assert (await plane.until_terminated(path))["phase"] == "SUCCEEDED"
    assert await plane.sweep() == NOTHING


async def test_many_without_a_workflow_are_started_in_one_sweep(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    await plane.deploy(STANDARD)
    paths = [await insert_row(registry, plane, function="standard") for _ in range(25)]
    assert await plane.sweep(grace=0) == "25 invocations started that had no workflow"
    for path in paths:
        await (await plane.until_worker_runs(path)).play("SUCCEEDED")
    for path in paths:
        assert (await plane.until_terminated(path))["phase"] == "SUCCEEDED"


async def test_the_rows_of_another_kind_are_not_touched(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    await plane.deploy(STANDARD)
    path = await insert_row(registry, plane, function="standard")
    await write(
        registry,
        update(Invocation).where(Invocation.id == id_of(path)).values(pool="another"),
    )
    assert await plane.sweep(grace=0) == NOTHING
    assert (await plane.get(path))["phase_detail"] is None


async def test_an_invocation_that_temporal_has_forgotten_goes_on(
    control_plane: ControlPlane,
) -> None:
    """Its execution counts as lost, and the invocation goes on with the attempts that are left."""
    plane = control_plane
    await plane.deploy(RETRYABLE)
    path = await plane.invoke("retryable")
    first = await plane.until_worker_runs(path)
    await lose_workflow(plane.temporal, id_of(path))

    await sweep_until(plane, "1 invocations started that had no workflow")

    await (await plane.until_worker_runs(path, attempt=2)).play("SUCCEEDED")
    over = await plane.until_terminated(path)
    assert over["phase"] == "SUCCEEDED"
    assert first.worker.terminations == 1
    assert [(e["worker_status"], e["cause"]) for e in over["executions"]] == [
        ("TERMINATED", "worker_lost"),
        ("TERMINATED", "succeeded"),
    ]


async def test_a_row_whose_executions_were_deleted_runs_again(
    control_plane: ControlPlane, registry: Registry
) -> None:
    """The worker is ended first, since it belongs to no execution."""
    plane = control_plane
    await plane.deploy(RETRYABLE)
    path = await plane.invoke("retryable")
    first = await plane.until_worker_runs(path)
    await write(registry, delete(Execution).where(Execution.invocation_id == id_of(path)))

    await sweep_until(plane, "1 leftover workers ended")
    assert first.worker.terminations == 1

    # Its workflow ends, or runs once more by itself, depending on where it has met the deletion.
    async def sweep_and_look() -> Json:
        await plane.sweep()
        return await plane.get(path)

    await eventually(sweep_and_look, lambda seen: seen["executions"])
    await (await plane.until_worker_runs(path)).play("SUCCEEDED")
    assert (await plane.until_terminated(path))["phase"] == "SUCCEEDED"


async def test_the_execution_of_an_ended_invocation_is_closed(
    control_plane: ControlPlane, registry: Registry
) -> None:
    """The invocation's row says that it has ended, but nobody has seen its worker's end."""
    plane = control_plane
    await plane.deploy(LIMITED)
    path = await plane.invoke("limited")
    run = await plane.until_worker_runs(path)
    await plane.temporal.get_workflow_handle(id_of(path)).terminate("by hand")
    await write(
        registry,
        update(Invocation)
        .where(Invocation.id == id_of(path))
        .values(status="TERMINATED", phase=Phase.FAILED, terminated_at=utc_now()),
    )

    await sweep_until(plane, "1 invocations started again whose workflow had been lost")

    await plane.until(path, lambda s: s["executions"][0]["worker_status"] == "TERMINATED")
    assert run.worker.terminations == 1
    assert (await plane.get(path))["phase"] == "FAILED"


async def test_a_workflow_that_temporal_itself_has_terminated_goes_on(
    registry: Registry, task_queue: str, tmp_path: Path
) -> None:
    """Its history had reached the limit of events. Nobody has wished for a cancel."""
    with OpenTemporal(
        tmp_path / "temporal",
        persistent=False,
        ui=False,
        search_attributes=SEARCH_ATTRIBUTES,
        extra_arguments=["--dynamic-config-value", "limit.historyCount.error=100"],
    ) as server:
        client = await connect(TemporalSettings(temporal_address=server.address))
        async with running_control_plane(registry, client, task_queue) as plane:
            await plane.deploy(RETRYABLE)
            path = await plane.invoke("retryable")
            run = await plane.until_worker_runs(path)
            workflow = client.get_workflow_handle(id_of(path))

            async def grown_too_long() -> bool:
                with suppress(RPCError):
                    await workflow.signal(WAKE_SIGNAL)
                return (await workflow.describe()).status is WorkflowExecutionStatus.TERMINATED

            await eventually(grown_too_long, bool)
            await sweep_until(plane, "1 invocations started again whose workflow had been lost")

            again = await plane.until_worker_runs(path, attempt=2)
            assert run.worker.terminations == 1
            await again.play("SUCCEEDED")
            over = await plane.until_terminated(path)
            assert over["phase"] == "SUCCEEDED"
            assert over["cancellation_request_time"] is None


def request_of(plane: ControlPlane) -> SweepRequest:
    return SweepRequest(
        provisioner=plane.provisioner.kind, provisioner_queue="of nobody", grace_seconds=0
    )


def sweep_activities(
    registry: Registry, client: Client, plane: ControlPlane, *, range_size: int = 1000
) -> SweepActivities:
    """The steps of the sweep of a control plane, in the test's own hands."""
    parts = parts_for(registry, client, plane.task_queue)
    return SweepActivities(
        registry,
        parts.dispatcher,
        WorkflowStates(plane.temporal, task_queue=plane.task_queue),
        plane.provisioner,
        grace_seconds=1,
        range_size=range_size,
    )


def end_connection(connection: psycopg.AsyncConnection[Any]) -> None:
    with socket.socket(fileno=os.dup(connection.fileno())) as ours:
        ours.shutdown(socket.SHUT_RDWR)


async def test_what_was_read_is_repaired_before_the_next_is_read(
    control_plane: ControlPlane, registry: Registry, registry_settings: RegistrySettings
) -> None:
    """A connection that is lost later on does not take the first repairs with it."""
    plane = control_plane
    await plane.deploy(STANDARD)
    paths = [await insert_row(registry, plane, function="standard") for _ in range(3)]
    unlucky = Registry(registry_settings)
    readings = 0

    @event.listens_for(unlucky.engine.sync_engine, "before_cursor_execute")
    def lose_connection(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        nonlocal readings
        del cursor
        readings += "ORDER BY invocations.id" in statement
        if readings == 3:
            end_connection(connection.connection.driver_connection)

    steps = sweep_activities(unlucky, plane.temporal, plane, range_size=1)
    with pytest.raises(OperationalError):
        await ActivityEnvironment().run(steps.compare_with_temporal, request_of(plane))

    for path in paths[:2]:
        await (await plane.until_worker_runs(path)).play("SUCCEEDED")
        await plane.until_terminated(path)
    assert (await plane.get(paths[2]))["phase_detail"] is None
    await unlucky.close()
    assert await plane.sweep(grace=0) == "1 invocations started that had no workflow"


async def test_a_start_that_temporal_has_not_taken_is_no_repair(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    await plane.deploy(STANDARD)
    await plane.until(plane.version_path, is_ready)
    await insert_row(registry, plane, function="standard")
    await write(registry, update(Function).values(preparation_status="PENDING"))
    nowhere = await connect(TemporalSettings(temporal_address="127.0.0.1:1"), lazy=True)
    steps = sweep_activities(registry, nowhere, plane)
    request = request_of(plane)

    compared = await ActivityEnvironment().run(steps.compare_with_temporal, request)
    others = await ActivityEnvironment().run(steps.start_other_workflows, request)

    left = {"repairs left for the next sweep": 1}
    assert (compared.counts, others.counts) == (left, left)
    assert await plane.sweep(grace=0) == (
        "1 invocations started that had no workflow; 1 preparations of versions started"
    )

"""The sweep: each kind of damage is made for real, and repaired by one sweep."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import (
    Client,
    ScheduleOverlapPolicy,
    WorkflowExecutionStatus,
    WorkflowFailureError,
)
from temporalio.service import RPCError, RPCStatusCode

from core.clock import utc_now
from core.ids import InvocationId, creation_time_of, new_invocation_id, run_id_of_execution
from core.lifecycle import Phase, QueueReason, WorkerStatus
from core.settings import TemporalSettings
from core.temporal import connect
from core.workflow_names import sweep_schedule_id
from provisioners.base import ProvisionerError
from provisioners.process import ProcessProvisioner, ProcessProvisionerConfig
from registry.engine import Registry
from registry.tables import Execution, Function, Invocation, Project
from tests.fakes import ScriptedProvisioner
from tests.harness import (
    LIMITED,
    RETRYABLE,
    STANDARD,
    ControlPlane,
    Json,
    RunningExecution,
    eventually,
    eventually_true,
    function_spec,
    running_control_plane,
)

NOTHING = "nothing to repair"


def id_of(path: str) -> InvocationId:
    return InvocationId(path.rpartition("/")[2])


def waits_for_a_slot(seen: Json) -> bool:
    return "concurrent execution" in (seen["phase_detail"] or "")


async def line_up(plane: ControlPlane, count: int) -> tuple[RunningExecution, list[str]]:
    """Have one invocation run and others wait for its slot.

    Each has asked before the next one is there: who asks too early asks again by itself after a
    second, and would not need the sweep.
    """
    await plane.deploy(LIMITED)
    first = await plane.invoke("limited")
    run = await plane.until_worker_runs(first)
    paths = [first]
    for _ in range(count - 1):
        paths.append(await plane.invoke("limited"))
        await plane.until(paths[-1], waits_for_a_slot)
    return run, paths


async def write(registry: Registry, *statements: Any) -> None:
    async with registry.transaction() as session:
        for statement in statements:
            await session.execute(statement)


async def insert_row(registry: Registry, plane: ControlPlane, *, function: str) -> str:
    """Do what the API does before it starts the workflow; returns the invocation's path."""
    invocation_id = new_invocation_id()
    created_at = creation_time_of(invocation_id)
    async with registry.transaction() as session:
        function_id = await session.scalar(select(Function.id).where(Function.name == function))
        await session.execute(
            insert(Invocation).values(
                id=invocation_id,
                function_id=function_id,
                input="null",
                provisioner=plane.provisioner.kind,
                created_at=created_at,
                updated_at=created_at,
            )
        )
    return f"{plane.version_path}/functions/{function}/invocations/{invocation_id}"


async def status_of(client: Client, workflow_id: str) -> WorkflowExecutionStatus | None:
    return (await client.get_workflow_handle(workflow_id).describe()).status


async def until_status(
    plane: ControlPlane, workflow_id: str, wanted: WorkflowExecutionStatus
) -> None:
    await eventually(partial(status_of, plane.temporal, workflow_id), lambda seen: seen is wanted)


async def until_closed(plane: ControlPlane, workflow_id: str) -> None:
    await eventually(
        partial(status_of, plane.temporal, workflow_id),
        lambda seen: seen is not WorkflowExecutionStatus.RUNNING,
    )


async def lose_workflow(client: Client, workflow_id: str) -> None:
    """Make Temporal forget a workflow, as after the loss of its data."""
    await client.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id),
        )
    )

    async def is_unknown() -> bool:
        try:
            await status_of(client, workflow_id)
        except RPCError as error:
            return error.status is RPCStatusCode.NOT_FOUND
        return False

    await eventually(is_unknown, bool)


async def sweep_until(plane: ControlPlane, wanted: str) -> None:
    """Sweep until it has repaired this: Temporal's lists of workflows may be a little old."""
    await eventually(plane.sweep, lambda said: wanted in said)


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
        update(Invocation).where(Invocation.id == id_of(path)).values(provisioner="another"),
    )
    assert await plane.sweep(grace=0) == NOTHING
    assert (await plane.get(path))["phase_detail"] is None


async def test_terminated_by_hand_while_it_runs_is_cancelled(
    control_plane: ControlPlane,
) -> None:
    """Its worker is ended, its slot is free, and what it has called is cancelled too."""
    plane = control_plane
    await plane.deploy(LIMITED, RETRYABLE)
    parent = await plane.invoke("limited")
    run = await plane.until_worker_runs(parent)
    await run.start()
    child = await plane.invoke(
        "retryable",
        parent_invocation={"function_name": "limited", "invocation_id": id_of(parent)},
    )
    child_run = await plane.until_worker_runs(child)
    waiting = await plane.invoke("limited")
    await plane.until(waiting, waits_for_a_slot)
    await plane.temporal.get_workflow_handle(id_of(parent)).terminate("by hand")

    await sweep_until(plane, "1 invocations cancelled whose workflow was ended by hand")

    over = await plane.until_terminated(parent)
    assert over["phase"] == "CANCELLED"
    assert over["cancellation_request_time"] is not None
    (execution,) = over["executions"]
    assert execution["worker_status"] == "TERMINATED"
    assert execution["cause"] == "cancelled"
    assert execution["termination_signal_time"] is not None
    assert run.worker.terminations == 1
    await until_status(plane, id_of(parent), WorkflowExecutionStatus.CANCELED)
    assert (await plane.until_terminated(child))["phase"] == "CANCELLED"
    assert child_run.worker.terminations == 1
    await (await plane.until_worker_runs(waiting)).play("SUCCEEDED")
    await plane.until_terminated(waiting)
    await eventually(plane.sweep, lambda said: said == NOTHING)


async def test_terminated_by_hand_while_it_waits_is_cancelled(
    control_plane: ControlPlane,
) -> None:
    plane = control_plane
    run, (_, second, third) = await line_up(plane, 3)
    await plane.temporal.get_workflow_handle(id_of(second)).terminate("by hand")

    await sweep_until(plane, "1 invocations cancelled whose workflow was ended by hand")

    over = await plane.until_terminated(second)
    assert (over["phase"], over["executions"]) == ("CANCELLED", [])
    await run.play("SUCCEEDED")
    await (await plane.until_worker_runs(third)).play("SUCCEEDED")
    assert (await plane.until_terminated(third))["phase"] == "SUCCEEDED"


async def test_terminated_by_hand_between_two_attempts_is_cancelled(
    control_plane: ControlPlane,
) -> None:
    plane = control_plane
    await plane.deploy(
        {
            **function_spec("flaky", retries=1, timeout=86_400),
            "retry_spec": {"initial_interval_seconds": 3600},
        }
    )
    path = await plane.invoke("flaky")
    await (await plane.until_worker_runs(path)).play("FAILED", error="ValueError: once")
    await plane.until(path, lambda s: "next attempt" in (s["phase_detail"] or ""))
    handle = plane.temporal.get_workflow_handle(id_of(path))
    (execution,) = (await plane.get(path))["executions"]

    async def latest_run() -> str | None:
        return (await handle.describe()).run_id

    # Until the next run is there, this would still hit the one that has failed.
    failed = run_id_of_execution(execution["execution_id"])
    await eventually(latest_run, lambda run_id: run_id != failed)
    await handle.terminate("by hand")

    await sweep_until(plane, "1 invocations cancelled whose workflow was ended by hand")

    over = await plane.until_terminated(path)
    assert over["phase"] == "CANCELLED"
    assert len(over["executions"]) == 1
    await eventually(plane.sweep, lambda said: said == NOTHING)


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


async def test_the_workflow_of_a_deleted_waiter_ends(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    run, (first, second) = await line_up(plane, 2)
    await write(registry, delete(Invocation).where(Invocation.id == id_of(second)))

    await sweep_until(plane, "1 workflows woken whose invocation was deleted")

    await until_status(plane, id_of(second), WorkflowExecutionStatus.COMPLETED)
    await run.play("SUCCEEDED")
    await plane.until_terminated(first)


async def test_the_worker_and_the_workflow_of_a_deleted_invocation_end(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    await plane.deploy(RETRYABLE)
    path = await plane.invoke("retryable")
    run = await plane.until_worker_runs(path)
    # Output that finds no execution to belong to must not keep the watch going for ever.
    run.worker.lines.append("hello")
    await write(registry, delete(Invocation).where(Invocation.id == id_of(path)))

    await sweep_until(plane, "1 leftover workers ended")

    assert run.worker.terminations == 1
    await until_closed(plane, id_of(path))
    await eventually(plane.sweep, lambda said: said == NOTHING)


async def test_a_cancellation_that_only_the_row_knows_is_passed_on(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    run, (running, waiting) = await line_up(plane, 2)
    plane.provisioner.obedient = False
    await write(
        registry,
        update(Invocation)
        .where(Invocation.id.in_([id_of(running), id_of(waiting)]))
        .values(cancellation_requested_at=utc_now() - timedelta(minutes=1)),
    )

    await sweep_until(plane, "2 cancellations passed on to Temporal")

    await eventually_true(lambda: run.worker.terminations == 1)
    assert await plane.sweep() == NOTHING, "Temporal has been told"
    run.worker.end()
    for path in (running, waiting):
        assert (await plane.until_terminated(path))["phase"] == "CANCELLED"


async def test_a_cancel_between_two_attempts_that_temporal_has_not_heard_of(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    await plane.deploy(
        {
            **function_spec("flaky", retries=1, timeout=86_400),
            "retry_spec": {"initial_interval_seconds": 3600},
        }
    )
    path = await plane.invoke("flaky")
    await (await plane.until_worker_runs(path)).play("FAILED", error="ValueError: once")
    await plane.until(path, lambda s: "next attempt" in (s["phase_detail"] or ""))
    await write(
        registry,
        update(Invocation)
        .where(Invocation.id == id_of(path))
        .values(
            status="TERMINATED",
            phase=Phase.CANCELLED,
            queue_reason=None,
            cancellation_requested_at=utc_now() - timedelta(minutes=1),
            terminated_at=utc_now() - timedelta(minutes=1),
        ),
    )
    await sweep_until(plane, "1 cancellations passed on to Temporal")
    await until_status(plane, id_of(path), WorkflowExecutionStatus.CANCELED)


async def test_can_7_descendants_of_a_cancelled_invocation_are_cancelled(
    control_plane: ControlPlane, registry: Registry
) -> None:
    """Also below one that has ended, and not the ones of others."""
    plane = control_plane
    await plane.deploy(STANDARD)

    async def child_of(path: str) -> tuple[str, RunningExecution]:
        parent = {"function_name": "standard", "invocation_id": id_of(path)}
        child = await plane.invoke("standard", parent_invocation=parent)
        return child, await plane.until_worker_runs(child)

    root = await plane.invoke("standard")
    root_run = await plane.until_worker_runs(root)
    middle, middle_run = await child_of(root)
    leaf, _ = await child_of(middle)
    await middle_run.play("SUCCEEDED")
    await plane.until_terminated(middle)
    other = await plane.invoke("standard")
    other_run = await plane.until_worker_runs(other)
    other_child, other_child_run = await child_of(other)
    await root_run.play("SUCCEEDED")
    await plane.until_terminated(root)
    await write(
        registry,
        update(Invocation)
        .where(Invocation.id == id_of(root))
        .values(cancellation_requested_at=utc_now() - timedelta(minutes=1)),
    )

    await sweep_until(plane, "1 invocations cancelled with what had called them")

    assert (await plane.until_terminated(leaf))["phase"] == "CANCELLED"
    assert (other_run.worker.terminations, other_child_run.worker.terminations) == (0, 0)
    for run, path in ((other_run, other), (other_child_run, other_child)):
        await run.play("SUCCEEDED")
        assert (await plane.until_terminated(path))["phase"] == "SUCCEEDED"


async def test_a_waiter_whose_wake_was_lost_gets_its_slot(
    control_plane: ControlPlane, registry: Registry
) -> None:
    """INV-12: once it was to be called, once it was called in vain."""
    plane = control_plane
    run, paths = await line_up(plane, 4)
    # Three are hidden from the queue, so that nobody is called when the slot gets free.
    await hide(registry, paths[1:])
    await run.play("SUCCEEDED")
    await plane.until_terminated(paths[0])
    assert await plane.sweep() == NOTHING

    await show(registry, paths[1:], queue_reason=QueueReason.FUNCTION_LIMIT)
    await sweep_until(plane, "1 waiting invocations called to free slots")
    run = await plane.until_worker_runs(paths[1])

    await hide(registry, paths[2:])
    await run.play("SUCCEEDED")
    await plane.until_terminated(paths[1])
    await show(
        registry,
        paths[2:3],
        queue_reason=QueueReason.CALLED,
        called_by="exe-of-long-ago",
        called_at=utc_now() - timedelta(minutes=1),
    )
    await show(registry, paths[3:], queue_reason=QueueReason.FUNCTION_LIMIT)
    assert await plane.sweep() == "1 called invocations woken again"
    for path in paths[2:]:
        await (await plane.until_worker_runs(path)).play("SUCCEEDED")
        await plane.until_terminated(path)


async def hide(registry: Registry, paths: list[str]) -> None:
    await show(registry, paths, queue_reason=QueueReason.FUNCTION_NOT_READY)


async def show(registry: Registry, paths: list[str], **values: Any) -> None:
    ids = [id_of(path) for path in paths]
    await write(registry, update(Invocation).where(Invocation.id.in_(ids)).values(**values))


async def test_a_waiter_that_was_set_aside_by_mistake_comes_back(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    run, (first, second) = await line_up(plane, 2)
    await show(registry, [second], queue_reason=QueueReason.WORKFLOW_LOST)
    await run.play("SUCCEEDED")
    await plane.until_terminated(first)

    await sweep_until(plane, "1 invocations brought back into the queue")

    await (await plane.until_worker_runs(second)).play("SUCCEEDED")
    await plane.until_terminated(second)


async def test_a_waiter_that_was_set_aside_without_a_workflow_rejoins_the_queue(
    control_plane: ControlPlane,
) -> None:
    """Its place is the one of its age, among those that wait when its workflow is started again."""
    plane = control_plane
    run, (_, second, third, fourth) = await line_up(plane, 4)
    await lose_workflow(plane.temporal, id_of(second))
    await run.play("SUCCEEDED")
    run = await plane.until_worker_runs(third)
    assert "workflow is gone" in (await plane.get(second))["phase_detail"]

    await sweep_until(plane, "1 invocations started that had no workflow")
    await plane.until(second, waits_for_a_slot)

    await run.play("SUCCEEDED")
    await (await plane.until_worker_runs(second)).play("SUCCEEDED")
    await (await plane.until_worker_runs(fourth)).play("SUCCEEDED")
    for path in (second, third, fourth):
        assert (await plane.until_terminated(path))["phase"] == "SUCCEEDED"


async def test_a_version_that_nobody_prepares_is_prepared(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    await plane.deploy(STANDARD)
    await plane.until(plane.version_path, is_ready)
    plane.provisioner.may_prepare.clear()
    await write(registry, update(Function).values(preparation_status="PENDING"))

    assert await plane.sweep(grace=0) == "1 preparations of versions started"

    assert await plane.sweep(grace=0) == NOTHING, "its preparation is under way"
    plane.provisioner.may_prepare.set()
    await plane.until(plane.version_path, is_ready)


def is_ready(version: Json) -> bool:
    return bool(version["functions"][0]["function_status"] == "READY")


async def test_a_deletion_that_nobody_carries_out_is_started(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    await plane.deploy(STANDARD)
    await plane.until(plane.version_path, is_ready)
    await write(
        registry, update(Project).values(deletion_requested_at=utc_now() - timedelta(minutes=1))
    )

    assert await plane.sweep() == "1 deletions of projects started"

    async def status() -> int:
        return (await plane.http.get("/projects/shop")).status_code

    await eventually(status, lambda seen: seen == 404)
    assert await plane.sweep() == NOTHING


async def test_the_worker_of_an_execution_that_ended_is_ended_after_a_while(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    run = await plane.until_worker_runs(path)
    await write(
        registry,
        update(Execution).values(
            worker_status=WorkerStatus.TERMINATED,
            terminated_at=utc_now() - timedelta(seconds=20),
        ),
    )
    assert await plane.sweep(leftover_grace=3600) == NOTHING
    assert run.worker.terminations == 0
    plane.provisioner.terminate_errors.append(RuntimeError("not now"))
    assert await plane.sweep() == "1 leftover workers not ended yet"
    assert await plane.sweep() == "1 leftover workers ended"
    assert run.worker.terminations == 1


async def test_a_leftover_process_is_ended_and_its_folder_deleted(
    registry: Registry, temporal_client: Client, task_queue: str, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "main.py").write_text("")
    (project / "control-plane.toml").write_text('command = ["sleep", "3600"]\n')
    provisioner = ProcessProvisioner(ProcessProvisionerConfig(state_folder=tmp_path / "state"))
    async with running_control_plane(
        registry, temporal_client, task_queue, provisioner=provisioner
    ) as plane:
        await plane.deploy(STANDARD, image=project.as_uri())
        kept, deleted = [await plane.invoke("standard") for _ in range(2)]
        for path in (kept, deleted):
            await plane.until_worker_runs(path)
        await write(registry, delete(Invocation).where(Invocation.id == id_of(deleted)))
        (kept_execution,) = (await plane.get(kept))["executions"]

        await sweep_until(plane, "1 leftover workers ended")

        assert await provisioner.list_workers() == [kept_execution["execution_id"]]
        await until_closed(plane, id_of(deleted))
        await plane.call("PUT", f"{kept}/cancel")
        assert (await plane.until_terminated(kept))["phase"] == "CANCELLED"
        assert await provisioner.list_workers() == []


async def test_a_sweep_that_cannot_see_the_workers_does_the_rest_and_says_so(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    await plane.deploy(STANDARD)
    path = await insert_row(registry, plane, function="standard")
    plane.provisioner.list_errors += [ProvisionerError("not at home")] * 3

    with pytest.raises(WorkflowFailureError) as failure:
        await plane.sweep(grace=0)

    assert str(failure.value.cause) == (
        "SweepFailed: could not end leftover workers: not at home; "
        "1 invocations started that had no workflow"
    )
    await (await plane.until_worker_runs(path)).play("SUCCEEDED")
    await plane.until_terminated(path)


async def test_a_schedule_sweeps_and_skips_overlaps(
    registry: Registry, temporal_settings: TemporalSettings, task_queue: str
) -> None:
    """Several Temporal workers may make it at once."""
    clients = [await connect(temporal_settings) for _ in range(3)]
    handle = clients[0].get_schedule_handle(sweep_schedule_id(task_queue, "scripted"))
    provisioner = ScriptedProvisioner()
    try:
        async with AsyncExitStack() as stack:
            plane, *_ = await asyncio.gather(
                *(
                    stack.enter_async_context(
                        running_control_plane(
                            registry,
                            client,
                            task_queue,
                            provisioner=provisioner,
                            sweep_interval_seconds=1,
                        )
                    )
                    for client in clients
                )
            )
            await plane.deploy(function_spec("standard", timeout=600))
            path = await insert_row(registry, plane, function="standard")
            await show(registry, [path], created_at=utc_now() - timedelta(minutes=1))
            # Nobody but the schedule sweeps here.
            await (await plane.until_worker_runs(path)).play("SUCCEEDED")
            assert (await plane.until_terminated(path))["phase"] == "SUCCEEDED"

        description = await handle.describe()
        assert description.schedule.policy.overlap is ScheduleOverlapPolicy.SKIP
        # No Temporal worker is left, so one sweep stays open, and the next ones are skipped.
        before = (await handle.describe()).info.num_actions_skipped_overlap
        await eventually(
            handle.describe, lambda seen: seen.info.num_actions_skipped_overlap > before + 1
        )
        assert len((await handle.describe()).info.running_actions) == 1
        await handle.pause(note="a test")
        async with running_control_plane(
            registry, clients[0], task_queue, sweep_interval_seconds=7
        ):
            updated = (await handle.describe()).schedule
        assert updated.state.note == "a test"
        assert [i.every for i in updated.spec.intervals] == [timedelta(seconds=7)]
    finally:
        await handle.delete()

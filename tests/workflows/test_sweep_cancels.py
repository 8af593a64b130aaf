"""The sweep and cancellations: those that were made by hand, and those that got lost."""

from datetime import timedelta

from sqlalchemy import update
from temporalio.client import WorkflowExecutionStatus

from core.clock import utc_now
from core.ids import run_id_of_execution
from core.states import Phase
from registry.database.engine import Registry
from registry.database.tables import Invocation
from tests.support.harness import (
    LIMITED,
    RETRYABLE,
    STANDARD,
    ControlPlane,
    RunningExecution,
    eventually,
    eventually_true,
)
from tests.support.sweeping import (
    NOTHING,
    fail_once,
    id_of,
    line_up,
    sweep_until,
    until_status,
    waits_for_a_slot,
    write,
)


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
    assert over["phase_detail"].startswith("its workflow was ended by hand in Temporal; attempt 1")
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
    assert over["phase_detail"] == "its workflow was ended by hand in Temporal"
    await run.play("SUCCEEDED")
    await (await plane.until_worker_runs(third)).play("SUCCEEDED")
    assert (await plane.until_terminated(third))["phase"] == "SUCCEEDED"


async def test_terminated_by_hand_between_two_attempts_is_cancelled(
    control_plane: ControlPlane,
) -> None:
    plane = control_plane
    path = await fail_once(plane)
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
    assert over["phase_detail"] == (
        "its workflow was ended by hand in Temporal between two attempts"
    )
    assert len(over["executions"]) == 1
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
    path = await fail_once(plane)
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

    await sweep_until(plane, "1 invocations cancelled with their parent")

    assert (await plane.until_terminated(leaf))["phase"] == "CANCELLED"
    assert (other_run.worker.terminations, other_child_run.worker.terminations) == (0, 0)
    for run, path in ((other_run, other), (other_child_run, other_child)):
        await run.play("SUCCEEDED")
        assert (await plane.until_terminated(path))["phase"] == "SUCCEEDED"

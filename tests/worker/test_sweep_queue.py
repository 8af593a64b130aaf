"""The sweep and the queue: waiters that are offered no slot, or do not take theirs."""

from datetime import timedelta

from sqlalchemy import delete
from temporalio.client import WorkflowExecutionStatus

from core.clock import utc_now
from core.states import QueueReason
from registry.database.engine import Registry
from registry.database.tables import Invocation
from tests.support.harness import ControlPlane
from tests.support.sweeping import (
    NOTHING,
    hide,
    id_of,
    line_up,
    lose_workflow,
    show,
    sweep_until,
    until_status,
    waits_for_a_slot,
    write,
)


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


async def test_a_waiter_whose_wake_was_lost_gets_its_slot(
    control_plane: ControlPlane, registry: Registry
) -> None:
    """INV-12: once a slot was to be offered to it, once it was offered in vain."""
    plane = control_plane
    run, paths = await line_up(plane, 4)
    # Three are hidden from the queue, so that the slot is offered to none when it gets free.
    await hide(registry, paths[1:])
    await run.play("SUCCEEDED")
    await plane.until_terminated(paths[0])
    assert await plane.sweep() == NOTHING

    await show(registry, paths[1:], queue_reason=QueueReason.FUNCTION_LIMIT)
    await sweep_until(plane, "1 free slots offered to waiting invocations")
    run = await plane.until_worker_runs(paths[1])

    await hide(registry, paths[2:])
    await run.play("SUCCEEDED")
    await plane.until_terminated(paths[1])
    await show(
        registry,
        paths[2:3],
        queue_reason=QueueReason.OFFERED,
        offered_by="exe-of-long-ago",
        offered_at=utc_now() - timedelta(minutes=1),
    )
    await show(registry, paths[3:], queue_reason=QueueReason.FUNCTION_LIMIT)
    assert await plane.sweep() == "1 invocations woken again that were offered a slot"
    for path in paths[2:]:
        await (await plane.until_worker_runs(path)).play("SUCCEEDED")
        await plane.until_terminated(path)


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

"""Waiting: for a slot, for the preparation; and who is next.

The rules E2E-n and INV-n are those of docs/behaviours.md.
"""

import asyncio
import uuid

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client

from core.settings import TemporalWorkerSettings
from provisioners.base import Exited, UnrecoverableProvisioningError
from registry.database.engine import Registry
from tests.support.harness import (
    LIMITED,
    STANDARD,
    ControlPlane,
    Json,
    function_spec,
    running_control_plane,
)


def waits_for_a_slot(seen: Json) -> bool:
    return "concurrent execution" in (seen["phase_detail"] or "")


async def test_e2e_5_a_cancelled_waiter_never_runs(control_plane: ControlPlane) -> None:
    """E2E-5, E2E-5a, INV-3, INV-11: the limit holds; a waiter can be cancelled."""
    plane = control_plane
    await plane.deploy(LIMITED)
    first = await plane.invoke("limited")
    await plane.until_worker_runs(first)
    second = await plane.invoke("limited")
    waiting = await plane.until(second, waits_for_a_slot)
    assert waiting["invocation_status"] == "RUNNING"
    assert waiting["executions"] == []
    assert waiting["queue_position"] == 1

    await plane.call("PUT", f"{second}/cancel")

    over = await plane.until_terminated(second)
    assert over["executions"] == []
    assert over["phase"] == "CANCELLED"
    assert (await plane.get(first))["invocation_status"] == "RUNNING"


async def test_e2e_6_a_waiter_times_out(control_plane: ControlPlane) -> None:
    """E2E-6, INV-4: time spent waiting counts."""
    plane = control_plane
    plane.provisioner.obedient = False
    first, run, timeout = await plane.run_until_timeout(concurrency=1)
    second = await plane.invoke("brief")
    over = await plane.until_terminated(second)
    assert over["executions"] == []
    assert over["last_update_time"] > over["creation_time"] + timeout
    assert over["phase"] == "TIMED_OUT"
    run.worker.end()
    await plane.until_terminated(first)


async def test_inv_10_an_invocation_waits_for_the_preparation(control_plane: ControlPlane) -> None:
    """INV-10: a function that is not READY; it runs as soon as it is."""
    plane = control_plane
    plane.provisioner.may_prepare.clear()
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    waiting = await plane.until(path, lambda s: "prepared" in (s["phase_detail"] or ""))
    assert waiting["function_status"] == "PENDING"
    assert waiting["executions"] == []
    plane.provisioner.may_prepare.set()
    await (await plane.until_worker_runs(path)).play("SUCCEEDED")
    assert (await plane.until_terminated(path))["phase"] == "SUCCEEDED"


async def test_a_waiter_for_the_preparation_can_be_cancelled(control_plane: ControlPlane) -> None:
    plane = control_plane
    plane.provisioner.may_prepare.clear()
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    await plane.until(path, lambda s: "prepared" in (s["phase_detail"] or ""))
    await plane.call("PUT", f"{path}/cancel")
    assert (await plane.until_terminated(path))["phase"] == "CANCELLED"
    plane.provisioner.may_prepare.set()


async def test_a_failed_preparation_fails_all_who_wait(control_plane: ControlPlane) -> None:
    plane = control_plane
    plane.provisioner.may_prepare.clear()
    plane.provisioner.prepare_errors.append(UnrecoverableProvisioningError("no such image"))
    await plane.deploy(LIMITED)
    paths = [await plane.invoke("limited") for _ in range(3)]
    for path in paths:
        await plane.until(path, lambda s: "prepared" in (s["phase_detail"] or ""))
    plane.provisioner.may_prepare.set()
    for path in [*paths, await plane.invoke("limited")]:
        over = await plane.until_terminated(path)
        assert over["phase"] == "FAILED"
        assert [e["error_message"] for e in over["executions"]] == ["no such image"]


async def test_inv_13_slots_go_to_the_oldest_first(control_plane: ControlPlane) -> None:
    """INV-12, INV-13: a freed slot goes to exactly one waiter, in order of arrival."""
    plane = control_plane
    await plane.deploy(function_spec("pair", concurrency=2))
    paths = [await plane.invoke("pair") for _ in range(6)]
    for turn in range(3):
        runs = [await plane.until_worker_runs(path) for path in paths[2 * turn : 2 * turn + 2]]
        for path in paths[2 * turn + 2 :]:
            assert (await plane.get(path))["executions"] == []
        # The two of a turn are provisioned at the same time, in either order.
        assert set(list(plane.provisioner.workers)[2 * turn :]) == {run.id for run in runs}
        for run in runs:
            await run.play("SUCCEEDED")
    for path in paths:
        assert (await plane.until_terminated(path))["phase"] == "SUCCEEDED"


@pytest.mark.timeout(300)
async def test_many_at_once_all_end(control_plane: ControlPlane) -> None:
    plane = control_plane
    await plane.deploy(function_spec("crowd", concurrency=5, timeout=600))
    paths = await asyncio.gather(*(plane.invoke("crowd") for _ in range(30)))
    ended: set[str] = set()

    async def play_all() -> None:
        while len(ended) < len(paths):
            for execution_id in await plane.provisioner.list_workers():
                assert len(await plane.provisioner.list_workers()) <= 5
                worker = plane.provisioner.workers[execution_id]
                ended.add(execution_id)
                worker.end(Exited(exit_code=0))
            await asyncio.sleep(0.01)

    await asyncio.wait_for(play_all(), 240)
    for path in paths:
        assert (await plane.until_terminated(path))["phase"] == "FAILED"


async def test_a_waiter_that_has_lost_its_workflow_holds_up_no_one(
    control_plane: ControlPlane,
) -> None:
    plane = control_plane
    await plane.deploy(LIMITED)
    first, second, third = [await plane.invoke("limited") for _ in range(3)]
    run = await plane.until_worker_runs(first)
    for path in (second, third):
        await plane.until(path, waits_for_a_slot)
    await plane.temporal.get_workflow_handle(second.rsplit("/", 1)[1]).terminate()
    await run.play("SUCCEEDED")
    await plane.until_terminated(first)
    await (await plane.until_worker_runs(third)).play("SUCCEEDED")
    assert (await plane.until_terminated(third))["phase"] == "SUCCEEDED"
    assert "workflow is gone" in (await plane.get(second))["phase_detail"]


async def test_a_run_reset_by_hand_ends_its_old_worker_and_wakes_who_waits(
    control_plane: ControlPlane,
) -> None:
    plane = control_plane
    await plane.deploy(LIMITED)
    first = await plane.invoke("limited")
    old = await plane.until_worker_runs(first)
    second = await plane.invoke("limited")
    await plane.until(second, waits_for_a_slot)
    handle = plane.temporal.get_workflow_handle(first.rsplit("/", 1)[1])
    description = await handle.describe()
    await plane.temporal.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=plane.temporal.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=description.run_id),
            reason="a test",
            workflow_task_finish_event_id=4,
            request_id=str(uuid.uuid4()),
        )
    )
    await (await plane.until_worker_runs(second)).play("SUCCEEDED")
    assert old.worker.terminations == 1
    assert (await plane.until_terminated(second))["phase"] == "SUCCEEDED"
    assert (await plane.until_terminated(first))["phase"] == "FAILED"


async def test_running_workers_leave_room_for_ending_them(
    registry: Registry, temporal_client: Client, task_queue: str
) -> None:
    """However many workers run, a cancel is carried out: watches have a queue of their own."""
    settings = TemporalWorkerSettings(termination_grace_seconds=1, max_workers=1)
    async with running_control_plane(
        registry, temporal_client, task_queue, settings=settings
    ) as plane:
        await plane.deploy(STANDARD)
        paths = [await plane.invoke("standard") for _ in range(4)]
        for path in paths:
            await plane.until_worker_runs(path)
        for path in paths:
            await plane.call("PUT", f"{path}/cancel")
        for path in paths:
            assert (await plane.until_terminated(path))["phase"] == "CANCELLED"

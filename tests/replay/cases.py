"""The cases whose histories are recorded: each drives real workflows on a path of their own.

A path of workflow code that no case goes through fails `test_paths`. The provisioner is scripted.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import RetryPolicy, WorkflowIDReusePolicy

from core.clock import utc_now
from core.ids import InvocationId, VersionId, run_id_of_execution
from core.messages import InvocationInput
from core.temporal.names import PROJECT_DELETION
from core.temporal.queues import control_queue, provisioner_queue
from provisioners.base import Exited, ProvisionerError, UnrecoverableProvisioningError
from registry.queries.invocations import create_invocation
from tests.support.harness import (
    LIMITED,
    RETRYABLE,
    STANDARD,
    ControlPlane,
    Json,
    eventually,
    eventually_true,
    function_spec,
)
from workflows.invocation import InvocationWorkflow
from workflows.project_deletion import ProjectDeletionWorkflow
from workflows.sweep import SweepWorkflow
from workflows.version_preparation import VersionPreparationWorkflow

AnyHandle = WorkflowHandle[object, object]
Recorded = dict[str, AnyHandle]
"""Name of a history -> the run that it is the history of."""
Case = Callable[[ControlPlane], Awaitable[Recorded]]

INVOCATIONS = InvocationWorkflow.__name__
PREPARATIONS = VersionPreparationWorkflow.__name__
DELETIONS = ProjectDeletionWorkflow.__name__
SWEEPS = SweepWorkflow.__name__


def invocation_id_of(path: str) -> str:
    return path.rsplit("/", 1)[1]


def run_of(plane: ControlPlane, path: str, execution: Json) -> AnyHandle:
    return plane.temporal.get_workflow_handle(
        invocation_id_of(path), run_id=run_id_of_execution(execution["execution_id"])
    )


async def over(plane: ControlPlane, path: str, *, phase: str) -> Json:
    seen = await plane.until_terminated(path)
    assert seen["phase"] == phase, seen
    return seen


async def until_closed(handle: AnyHandle) -> None:
    async def status() -> WorkflowExecutionStatus | None:
        return (await handle.describe()).status

    await eventually(status, lambda seen: seen is not WorkflowExecutionStatus.RUNNING)


async def success(plane: ControlPlane) -> Recorded:
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    await (await plane.until_worker_runs(path)).play("SUCCEEDED", output="1")
    (execution,) = (await over(plane, path, phase="SUCCEEDED"))["executions"]
    return {"success": run_of(plane, path, execution)}


async def retry(plane: ControlPlane) -> Recorded:
    await plane.deploy(RETRYABLE)
    path = await plane.invoke("retryable")
    await (await plane.until_worker_runs(path)).play("FAILED", error="ValueError: once")
    await (await plane.until_worker_runs(path, attempt=2)).play("SUCCEEDED")
    first, second = (await over(plane, path, phase="SUCCEEDED"))["executions"]
    return {
        "retry-first-run": run_of(plane, path, first),
        "retry-second-run": run_of(plane, path, second),
    }


async def last_failure(plane: ControlPlane) -> Recorded:
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    await (await plane.until_worker_runs(path)).play("FAILED", error="ValueError: always")
    (execution,) = (await over(plane, path, phase="FAILED"))["executions"]
    return {"last-failure": run_of(plane, path, execution)}


async def vanished_worker(plane: ControlPlane) -> Recorded:
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    run = await plane.until_worker_runs(path)
    await run.start()
    run.worker.end(Exited(exit_code=137, detail="killed by signal 9 (SIGKILL)"))
    (execution,) = (await over(plane, path, phase="FAILED"))["executions"]
    return {"vanished-worker": run_of(plane, path, execution)}


async def cancelled_while_queued(plane: ControlPlane) -> Recorded:
    await plane.deploy(LIMITED)
    first = await plane.invoke("limited")
    run = await plane.until_worker_runs(first)
    second = await plane.invoke("limited")
    await plane.until(second, lambda s: "concurrent execution" in (s["phase_detail"] or ""))
    await plane.call("PUT", f"{second}/cancel")
    await over(plane, second, phase="CANCELLED")
    run.worker.end()
    return {"cancelled-while-queued": plane.temporal.get_workflow_handle(invocation_id_of(second))}


async def cancelled_while_running(plane: ControlPlane) -> Recorded:
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    await plane.until_worker_runs(path)
    await plane.call("PUT", f"{path}/cancel")
    (execution,) = (await over(plane, path, phase="CANCELLED"))["executions"]
    return {"cancelled-while-running": run_of(plane, path, execution)}


async def cancelled_while_provisioned(plane: ControlPlane) -> Recorded:
    plane.provisioner.may_provision.clear()
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    await plane.until(path, lambda s: s["phase"] == "PROVISIONING")
    await plane.call("PUT", f"{path}/cancel")
    plane.provisioner.may_provision.set()
    (execution,) = (await over(plane, path, phase="CANCELLED"))["executions"]
    return {"cancelled-while-provisioned": run_of(plane, path, execution)}


async def cancelled_before_the_worker_was_recorded(plane: ControlPlane) -> Recorded:
    plane.provisioner.provision_errors += [ProvisionerError("busy")] * 1000
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    await plane.until(path, lambda s: "busy" in (s["phase_detail"] or ""))
    await plane.call("PUT", f"{path}/cancel")
    (execution,) = (await over(plane, path, phase="CANCELLED"))["executions"]
    return {"cancelled-before-the-worker-was-recorded": run_of(plane, path, execution)}


async def provisioning_failed_after_the_cancel(plane: ControlPlane) -> Recorded:
    plane.provisioner.may_provision.clear()
    plane.provisioner.lost_answers.append(ProvisionerError("the connection broke"))
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    await plane.until(path, lambda s: s["phase"] == "PROVISIONING")
    await plane.call("PUT", f"{path}/cancel")
    handle = plane.temporal.get_workflow_handle(invocation_id_of(path))

    async def is_asked_to_cancel() -> bool:
        events = (await handle.fetch_history()).events
        asked = EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED
        return any(event.event_type == asked for event in events)

    await eventually(is_asked_to_cancel, bool)
    plane.provisioner.may_provision.set()
    (execution,) = (await over(plane, path, phase="CANCELLED"))["executions"]
    return {"provisioning-failed-after-the-cancel": run_of(plane, path, execution)}


async def cancelled_between_attempts(plane: ControlPlane) -> Recorded:
    """The run that waits for its back-off is cancelled before its first task."""
    await plane.deploy(RETRYABLE)
    path = await plane.invoke("retryable")
    await (await plane.until_worker_runs(path)).play("FAILED", error="ValueError: once")
    await plane.until(path, lambda s: s["phase"] == "QUEUED")
    await plane.call("PUT", f"{path}/cancel")
    await over(plane, path, phase="CANCELLED")
    return {
        "cancelled-between-attempts": plane.temporal.get_workflow_handle(invocation_id_of(path))
    }


async def timed_out_between_attempts(plane: ControlPlane) -> Recorded:
    """The pause is longer than the time that is left: the failed run waits for the deadline."""
    path, run, _ = await plane.run_until_timeout(
        least=3, retries=1, retry_spec={"initial_interval_seconds": 3600}
    )
    await run.play("FAILED", error="ValueError: once")
    (execution,) = (await over(plane, path, phase="TIMED_OUT"))["executions"]
    return {"timed-out-between-attempts": run_of(plane, path, execution)}


async def timed_out_while_running(plane: ControlPlane) -> Recorded:
    path, _, _ = await plane.run_until_timeout()
    (execution,) = (await over(plane, path, phase="TIMED_OUT"))["executions"]
    return {"timed-out-while-running": run_of(plane, path, execution)}


async def timed_out_while_queued(plane: ControlPlane) -> Recorded:
    plane.provisioner.obedient = False
    _, run, _ = await plane.run_until_timeout(concurrency=1)
    second = await plane.invoke("brief")
    await over(plane, second, phase="TIMED_OUT")
    run.worker.end()
    return {"timed-out-while-queued": plane.temporal.get_workflow_handle(invocation_id_of(second))}


async def preparation_pending(plane: ControlPlane) -> Recorded:
    plane.provisioner.may_prepare.clear()
    plane.provisioner.prepare_errors.append(ProvisionerError("not at home"))
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    await plane.until(path, lambda s: "prepared" in (s["phase_detail"] or ""))
    plane.provisioner.may_prepare.set()
    await (await plane.until_worker_runs(path)).play("SUCCEEDED")
    (execution,) = (await over(plane, path, phase="SUCCEEDED"))["executions"]
    return {
        "woken-when-prepared": run_of(plane, path, execution),
        f"{PREPARATIONS}/pending-then-ready": preparation_of(plane),
    }


async def preparation_failed(plane: ControlPlane) -> Recorded:
    plane.provisioner.may_prepare.clear()
    plane.provisioner.prepare_errors.append(UnrecoverableProvisioningError("no such image"))
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    await plane.until(path, lambda s: "prepared" in (s["phase_detail"] or ""))
    plane.provisioner.may_prepare.set()
    await over(plane, path, phase="FAILED")
    return {
        "woken-when-unpreparable": plane.temporal.get_workflow_handle(invocation_id_of(path)),
        f"{PREPARATIONS}/failed": preparation_of(plane),
    }


async def preparation_of_many(plane: ControlPlane) -> Recorded:
    """More functions than are prepared at once."""
    await plane.deploy(*(function_spec(f"function-{number}") for number in range(21)))
    await plane.until(
        plane.version_path,
        lambda v: all(f["function_status"] == "READY" for f in v["functions"]),
    )
    return {f"{PREPARATIONS}/many-functions": preparation_of(plane)}


async def preparation_cancelled_by_hand(plane: ControlPlane) -> Recorded:
    plane.provisioner.may_prepare.clear()
    await plane.deploy(STANDARD)
    handle = preparation_of(plane)

    async def activities() -> int:
        return len((await handle.describe()).raw_description.pending_activities)

    await eventually(activities, bool)
    await handle.cancel()
    await until_closed(handle)
    plane.provisioner.may_prepare.set()
    return {f"{PREPARATIONS}/cancelled-by-hand": handle}


def preparation_of(plane: ControlPlane) -> AnyHandle:
    version_id = plane.version_path.rsplit("/", 1)[1]
    return plane.temporal.get_workflow_handle(f"prepare-{version_id}")


async def refused(plane: ControlPlane) -> Recorded:
    await plane.deploy(STANDARD)
    plane.provisioner.provision_errors += [
        ProvisionerError("busy"),
        UnrecoverableProvisioningError("no such zone"),
    ]
    path = await plane.invoke("standard")
    (execution,) = (await over(plane, path, phase="FAILED"))["executions"]
    return {"refused-by-the-provisioner": run_of(plane, path, execution)}


async def freed_slot(plane: ControlPlane) -> Recorded:
    """The run that frees a slot, and the run that gets it."""
    await plane.deploy(LIMITED)
    first = await plane.invoke("limited")
    run = await plane.until_worker_runs(first)
    second = await plane.invoke("limited")
    await plane.until(second, lambda s: "concurrent execution" in (s["phase_detail"] or ""))
    await run.play("SUCCEEDED")
    await (await plane.until_worker_runs(second)).play("SUCCEEDED")
    recorded = {}
    for name, path in (("frees-a-slot", first), ("woken-by-a-freed-slot", second)):
        (execution,) = (await over(plane, path, phase="SUCCEEDED"))["executions"]
        recorded[name] = run_of(plane, path, execution)
    return recorded


async def freed_slot_of_a_lost_waiter(plane: ControlPlane) -> Recorded:
    """The workflow of the next in line was terminated by hand: the one after it is woken."""
    await plane.deploy(LIMITED)
    first = await plane.invoke("limited")
    run = await plane.until_worker_runs(first)
    waiters = []
    for _ in range(2):
        waiters.append(await plane.invoke("limited"))
        await plane.until(
            waiters[-1], lambda s: "concurrent execution" in (s["phase_detail"] or "")
        )
    lost, second = waiters
    await plane.temporal.get_workflow_handle(invocation_id_of(lost)).terminate("by hand")
    await run.play("SUCCEEDED")
    await (await plane.until_worker_runs(second)).play("SUCCEEDED")
    (execution,) = (await over(plane, first, phase="SUCCEEDED"))["executions"]
    return {"frees-the-slot-of-a-lost-waiter": run_of(plane, first, execution)}


async def younger_than_one_that_has_not_asked(plane: ControlPlane) -> Recorded:
    """An older invocation whose workflow was never started keeps its place for some seconds."""
    await plane.deploy(LIMITED)
    async with plane.registry.transaction() as session:
        await create_invocation(
            session,
            project_name="shop",
            version_id=VersionId(plane.version_path.rsplit("/", 1)[1]),
            function_name="limited",
            input_="null",
            parent=None,
            idempotency_key=None,
        )
    path = await plane.invoke("limited")
    await (await plane.until_worker_runs(path)).play("SUCCEEDED")
    (execution,) = (await over(plane, path, phase="SUCCEEDED"))["executions"]
    return {"asks-again": run_of(plane, path, execution)}


async def stale_execution(plane: ControlPlane) -> Recorded:
    """A run is terminated by hand; the next run ends and closes what it has left open."""
    await plane.deploy(RETRYABLE)
    path = await plane.invoke("retryable")
    old = await plane.until_worker_runs(path)
    await old.start()
    terminated = plane.temporal.get_workflow_handle(invocation_id_of(path))
    description = await terminated.describe()
    await terminated.terminate("by hand")
    await start_again(
        plane.temporal, invocation_id_of(path), description.task_queue, deadline_in=30
    )
    await eventually_true(lambda: old.worker.terminations == 1)
    await (await plane.until_worker_runs(path, attempt=2)).play("SUCCEEDED")
    stale, second = (await over(plane, path, phase="SUCCEEDED"))["executions"]
    assert (stale["worker_status"], stale["outcome"]) == ("TERMINATED", None)
    return {"stale-execution": run_of(plane, path, second)}


async def terminated_by_hand(plane: ControlPlane) -> Recorded:
    """The sweep repairs it: the next run ends the worker and is cancelled."""
    await plane.deploy(RETRYABLE)
    path = await plane.invoke("retryable")
    old = await plane.until_worker_runs(path)
    handle = plane.temporal.get_workflow_handle(invocation_id_of(path))
    await handle.terminate("by hand")
    recorded: Recorded = {}

    async def sweep() -> str:
        sweeping = await plane.start_sweep()
        recorded[f"{SWEEPS}/repaired"] = sweeping
        return await sweeping.result()

    await eventually(sweep, lambda said: "ended by hand" in said)
    (execution,) = (await over(plane, path, phase="CANCELLED"))["executions"]
    assert (old.worker.terminations, execution["cause"]) == (1, "cancelled")
    return {**recorded, "terminated-by-hand": handle}


async def sweep_with_nothing_to_do(plane: ControlPlane) -> Recorded:
    sweeping = await plane.start_sweep()
    assert await sweeping.result() == "nothing to repair"
    return {f"{SWEEPS}/nothing-to-repair": sweeping}


async def sweep_with_a_step_that_fails(plane: ControlPlane) -> Recorded:
    plane.provisioner.list_errors += [ProvisionerError("not at home")] * 3
    return {f"{SWEEPS}/a-step-fails": await plane.start_sweep()}


async def start_again(
    client: Client, invocation_id: str, queue: str, *, deadline_in: float
) -> None:
    prefix = queue.removesuffix("-control")
    assert queue == control_queue(prefix)
    deadline: datetime = utc_now() + timedelta(seconds=deadline_in)
    await client.start_workflow(
        InvocationWorkflow.run,
        InvocationInput(
            invocation_id=InvocationId(invocation_id),
            title="retryable @ shop",
            deadline=deadline,
            max_attempts=6,
            provisioner_queue=provisioner_queue(prefix, "scripted"),
            heartbeat_seconds=2,
        ),
        id=invocation_id,
        task_queue=queue,
        retry_policy=RetryPolicy(maximum_attempts=6, initial_interval=timedelta(seconds=1)),
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
    )


async def deletion_of_idle_project(plane: ControlPlane) -> Recorded:
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    await (await plane.until_worker_runs(path)).play("SUCCEEDED")
    await over(plane, path, phase="SUCCEEDED")
    return {f"{DELETIONS}/nothing-runs": await deleted(plane)}


async def deletion_waits(plane: ControlPlane) -> Recorded:
    """One runs and one is queued; the end of the one that runs wakes the deletion."""
    plane.provisioner.obedient = False
    await plane.deploy(LIMITED)
    path = await plane.invoke("limited")
    run = await plane.until_worker_runs(path)
    await plane.invoke("limited")
    await plane.call("DELETE", "/projects/shop")
    await eventually_true(lambda: run.worker.terminations == 1)
    run.worker.end()
    cancelled = plane.temporal.get_workflow_handle(invocation_id_of(path))
    return {
        f"{DELETIONS}/waits-for-one": await deleted(plane),
        "cancelled-with-its-project": cancelled,
    }


async def deletion_looks_again(plane: ControlPlane) -> Recorded:
    """What it waits for takes longer than it waits for a wake."""
    plane.provisioner.obedient = False
    await plane.deploy(STANDARD)
    run = await plane.until_worker_runs(await plane.invoke("standard"))
    await plane.call("DELETE", "/projects/shop")
    await eventually_true(lambda: run.worker.terminations == 1)
    handle = await deletion_of(plane)

    async def has_looked_again() -> bool:
        events = (await handle.fetch_history()).events
        return any(event.event_type == EventType.EVENT_TYPE_TIMER_FIRED for event in events)

    await eventually(has_looked_again, bool)
    run.worker.end()
    return {f"{DELETIONS}/looks-again": await deleted(plane)}


async def deleted(plane: ControlPlane) -> AnyHandle:
    """Delete the project; returns the workflow that did it."""
    await plane.call("DELETE", "/projects/shop")

    async def status() -> int:
        return (await plane.http.get("/projects/shop")).status_code

    await eventually(status, lambda seen: seen == 404, seconds=60)
    return await deletion_of(plane)


async def deletion_of(plane: ControlPlane) -> AnyHandle:
    """Find the workflow that deletes the project."""
    # The API does not tell the project's id; each case has a task queue of its own.
    queue = (await preparation_of(plane).describe()).task_queue
    query = f"WorkflowType = '{PROJECT_DELETION}' AND TaskQueue = '{queue}'"

    async def deletions() -> list[str]:
        return [found.id async for found in plane.temporal.list_workflows(query)]

    (workflow_id,) = await eventually(deletions, bool)
    return plane.temporal.get_workflow_handle(workflow_id)


CASES: list[Case] = [
    success,
    retry,
    last_failure,
    vanished_worker,
    cancelled_while_queued,
    cancelled_while_running,
    cancelled_while_provisioned,
    cancelled_before_the_worker_was_recorded,
    provisioning_failed_after_the_cancel,
    cancelled_between_attempts,
    timed_out_between_attempts,
    timed_out_while_running,
    timed_out_while_queued,
    preparation_pending,
    preparation_failed,
    preparation_of_many,
    preparation_cancelled_by_hand,
    refused,
    freed_slot,
    freed_slot_of_a_lost_waiter,
    younger_than_one_that_has_not_asked,
    stale_execution,
    deletion_of_idle_project,
    deletion_waits,
    deletion_looks_again,
    terminated_by_hand,
    sweep_with_nothing_to_do,
    sweep_with_a_step_that_fails,
]

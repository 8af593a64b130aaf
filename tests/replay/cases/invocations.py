"""Invocations that end by themselves, by a cancel and by their timeout."""

from temporalio.api.enums.v1 import EventType

from provisioners.base import Exited, ProvisionerError, UnrecoverableProvisioningError
from tests.replay.cases.runs import Recorded, invocation_id_of, over, run_of
from tests.support.harness import LIMITED, RETRYABLE, STANDARD, ControlPlane, eventually


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


async def refused(plane: ControlPlane) -> Recorded:
    await plane.deploy(STANDARD)
    plane.provisioner.provision_errors += [
        ProvisionerError("busy"),
        UnrecoverableProvisioningError("no such zone"),
    ]
    path = await plane.invoke("standard")
    (execution,) = (await over(plane, path, phase="FAILED"))["executions"]
    return {"refused-by-the-provisioner": run_of(plane, path, execution)}


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

"""The pauses between the attempts of an invocation."""

from datetime import datetime

from temporalio.client import WorkflowExecutionStatus

from core.ids import run_id_of_execution
from tests.support.harness import ControlPlane, Json, eventually, function_spec


def with_pauses(spec: Json, **pauses: float) -> Json:
    return {**spec, "retry_spec": pauses}


def waits_for_the_next_attempt(seen: Json) -> bool:
    return "the next attempt follows at" in (seen["phase_detail"] or "")


async def fail_once(plane: ControlPlane, path: str, *, attempt: int = 1) -> Json:
    run = await plane.until_worker_runs(path, attempt=attempt)
    await run.play("FAILED", error="no luck")
    return await plane.until(path, waits_for_the_next_attempt)


async def times_of(plane: ControlPlane, path: str, execution: Json) -> tuple[datetime, datetime]:
    """Give when the code of an execution's run began, and when the run ended."""
    handle = plane.temporal.get_workflow_handle(
        path.rpartition("/")[2], run_id=run_id_of_execution(execution["execution_id"])
    )
    events = (await handle.fetch_history()).events
    began = next(e for e in events if e.HasField("workflow_task_started_event_attributes"))
    return began.event_time.ToDatetime(), events[-1].event_time.ToDatetime()


async def test_each_pause_is_as_long_as_the_function_asks(control_plane: ControlPlane) -> None:
    plane = control_plane
    spec = function_spec("flaky", retries=2)
    await plane.deploy(with_pauses(spec, initial_interval_seconds=2, backoff_coefficient=1.5))
    path = await plane.invoke("flaky")

    waiting = await fail_once(plane, path)
    assert waiting["phase"] == "QUEUED"
    assert waiting["queue_position"] is None
    await fail_once(plane, path, attempt=2)
    await (await plane.until_worker_runs(path, attempt=3)).play("SUCCEEDED")

    over = await plane.until_terminated(path)
    first, second, third = [
        await times_of(plane, path, execution) for execution in over["executions"]
    ]
    assert (second[0] - first[1]).total_seconds() >= 2
    assert (third[0] - second[1]).total_seconds() >= 3


async def test_a_cancel_ends_a_long_pause_at_once(control_plane: ControlPlane) -> None:
    plane = control_plane
    spec = function_spec("flaky", retries=1, timeout=86_400)
    await plane.deploy(with_pauses(spec, initial_interval_seconds=3600))
    path = await plane.invoke("flaky")
    await fail_once(plane, path)

    await plane.call("PUT", f"{path}/cancel")

    over = await plane.until_terminated(path)
    assert over["phase"] == "CANCELLED"
    assert len(over["executions"]) == 1


async def test_a_deadline_in_a_long_pause_is_kept(control_plane: ControlPlane) -> None:
    """E2E-6: waiting between attempts counts for the timeout, and ends with it."""
    plane = control_plane
    path, run, timeout = await plane.run_until_timeout(
        least=3, retries=1, retry_spec={"initial_interval_seconds": 3600}
    )
    await run.play("FAILED", error="ValueError: once")

    over = await plane.until_terminated(path)
    assert over["phase"] == "TIMED_OUT"
    assert over["last_update_time"] > over["creation_time"] + timeout
    assert len(over["executions"]) == 1


async def test_a_cancel_before_a_deadline_in_a_long_pause(control_plane: ControlPlane) -> None:
    plane = control_plane
    await plane.deploy(
        with_pauses(function_spec("flaky", retries=1, timeout=60), initial_interval_seconds=3600)
    )
    path = await plane.invoke("flaky")
    await fail_once(plane, path)

    await plane.call("PUT", f"{path}/cancel")

    assert (await plane.until_terminated(path))["phase"] == "CANCELLED"
    handle = plane.temporal.get_workflow_handle(path.rpartition("/")[2])

    async def status() -> WorkflowExecutionStatus | None:
        return (await handle.describe()).status

    await eventually(status, lambda seen: seen is WorkflowExecutionStatus.CANCELED)

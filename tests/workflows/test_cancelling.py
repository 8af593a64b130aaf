"""A cancel in every state, and what is shown while something cannot be done.

The rules are those of docs/behaviours.md. A cancel in back-off, while provisioning and while
running is tested in test_invocation.py; one of a waiter for a slot in test_waiting.py.
"""

from temporalio.api.enums.v1 import EventType

from provisioners.base import ProvisionerError
from tests.support.harness import (
    LIMITED,
    RETRYABLE,
    STANDARD,
    ControlPlane,
    Json,
    eventually,
    eventually_true,
)


def parent_of(function: str, path: str) -> Json:
    invocation_id = path.rsplit("/", 1)[1]
    return {"parent_invocation": {"function_name": function, "invocation_id": invocation_id}}


async def until_in_history(
    plane: ControlPlane, path: str, event_type: "EventType.ValueType"
) -> None:
    """Wait until the workflow of an invocation has come to an event of a type."""
    handle = plane.temporal.get_workflow_handle(path.rsplit("/", 1)[1])

    async def types() -> list["EventType.ValueType"]:
        return [event.event_type for event in (await handle.fetch_history()).events]

    await eventually(types, lambda seen: event_type in seen)


async def test_a_cancel_while_the_function_is_being_prepared(control_plane: ControlPlane) -> None:
    plane = control_plane
    plane.provisioner.may_prepare.clear()
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    await plane.until(path, lambda s: "prepared" in (s["phase_detail"] or ""))
    await plane.call("PUT", f"{path}/cancel")
    over = await plane.until_terminated(path)
    assert (over["phase"], over["executions"]) == ("CANCELLED", [])
    plane.provisioner.may_prepare.set()


async def test_a_cancel_of_what_is_being_cancelled_keeps_the_first_time(
    control_plane: ControlPlane,
) -> None:
    """CAN-3, SIG-3: one signal; after the end it is a 409."""
    plane = control_plane
    plane.provisioner.obedient = False
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    run = await plane.until_worker_runs(path)
    first = await plane.call("PUT", f"{path}/cancel")
    await eventually_true(lambda: run.worker.terminations == 1)
    again = await plane.call("PUT", f"{path}/cancel")
    assert again["phase"] == "CANCELLING"
    assert again["cancellation_request_time"] == first["cancellation_request_time"]
    run.worker.end()
    assert (await plane.until_terminated(path))["phase"] == "CANCELLED"
    assert run.worker.terminations == 1
    refused = await plane.http.put(f"{path}/cancel")
    assert refused.status_code == 409
    assert refused.json() == {"detail": "This invocation has already terminated"}


async def test_can_6_children_that_come_after_the_cancel_never_run(
    control_plane: ControlPlane,
) -> None:
    """CAN-6, CAN-7: while the parent is CANCELLING, and when it has ended."""
    plane = control_plane
    plane.provisioner.obedient = False
    await plane.deploy(STANDARD)
    parent = await plane.invoke("standard")
    run = await plane.until_worker_runs(parent)
    await plane.call("PUT", f"{parent}/cancel")
    late = await plane.invoke("standard", **parent_of("standard", parent))
    grandchild = await plane.invoke("standard", **parent_of("standard", late))
    for path in (late, grandchild):
        over = await plane.until_terminated(path)
        assert (over["phase"], over["executions"]) == ("CANCELLED", [])
    run.worker.end()
    await plane.until_terminated(parent)
    latest = await plane.invoke("standard", **parent_of("standard", parent))
    assert (await plane.until_terminated(latest))["executions"] == []
    assert list(plane.provisioner.workers) == [run.id]


async def test_can_2_a_cancel_leaves_parents_and_others_alone(control_plane: ControlPlane) -> None:
    """CAN-2, CAN-4, CAN-5, SIG-6: also in what the provisioner is asked."""
    plane = control_plane
    await plane.deploy(STANDARD)
    other, parent = await plane.invoke("standard"), await plane.invoke("standard")
    runs = [await plane.until_worker_runs(path) for path in (other, parent)]
    child = await plane.invoke("standard", **parent_of("standard", parent))
    await plane.until_worker_runs(child)
    await plane.call("PUT", f"{child}/cancel")
    assert (await plane.until_terminated(child))["phase"] == "CANCELLED"
    for path, run in ((other, runs[0]), (parent, runs[1])):
        assert (await plane.get(path))["cancellation_request_time"] is None
        assert run.worker.terminations == 0
        await run.play("SUCCEEDED")
        assert (await plane.until_terminated(path))["phase"] == "SUCCEEDED"


async def test_a_worker_whose_provisioning_failed_after_the_cancel_is_ended(
    control_plane: ControlPlane,
) -> None:
    """The call that was under way has made a worker, and its answer was lost."""
    plane = control_plane
    await plane.deploy(RETRYABLE)
    plane.provisioner.may_provision.clear()
    plane.provisioner.lost_answers.append(ProvisionerError("the connection broke"))
    path = await plane.invoke("retryable")
    await plane.until(path, lambda s: s["phase"] == "PROVISIONING")
    await plane.call("PUT", f"{path}/cancel")
    await until_in_history(plane, path, EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED)

    plane.provisioner.may_provision.set()

    over = await plane.until_terminated(path)
    (worker,) = plane.provisioner.workers.values()
    assert (worker.terminations, worker.ended.is_set()) == (1, True)
    assert (over["phase"], over["executions"][0]["cause"]) == ("CANCELLED", "cancelled")


async def test_why_an_end_cannot_be_confirmed_is_shown(control_plane: ControlPlane) -> None:
    """The invocation stays CANCELLING, and a person can read why."""
    plane = control_plane
    await plane.deploy(LIMITED)
    path = await plane.invoke("limited")
    run = await plane.until_worker_runs(path)
    plane.provisioner.terminate_errors += [ProvisionerError("no route to host")] * 4
    await plane.call("PUT", f"{path}/cancel")
    seen = await plane.until(path, lambda s: "no route to host" in (s["phase_detail"] or ""))
    assert (seen["invocation_status"], seen["phase"]) == ("RUNNING", "CANCELLING")
    assert seen["phase_detail"].startswith("cancellation was requested")
    assert seen["phase_detail"].count("no route to host") == 1
    over = await plane.until_terminated(path)
    assert over["phase"] == "CANCELLED"
    assert "no route to host" not in over["phase_detail"]
    assert run.worker.terminations == 1


async def test_why_a_worker_is_not_there_yet_is_shown(control_plane: ControlPlane) -> None:
    """While it is tried again: the provisioner's words, bounded; and no more once it is there."""
    plane = control_plane
    await plane.deploy(RETRYABLE)
    plane.provisioner.provision_errors += [ProvisionerError(f"no {'x' * 5000}\nsecond line")] * 3
    path = await plane.invoke("retryable")
    seen = await plane.until(path, lambda s: "tried again" in (s["phase_detail"] or ""))
    assert (seen["phase"], len(seen["executions"])) == ("PROVISIONING", 1)
    assert seen["phase_detail"].startswith("attempt 1 of 6: the provisioner says: no xxx")
    assert len(seen["phase_detail"]) < 600
    run = await plane.until_worker_runs(path)
    await plane.until(path, lambda s: s["phase_detail"] == "attempt 1 of 6")
    await run.play("SUCCEEDED")
    assert (await plane.until_terminated(path))["phase"] == "SUCCEEDED"

"""Invocations from the request to the end, on real servers, over a scripted provisioner.

The rules E2E-n, INV-n and SIG-n are those of docs/behaviours.md.
"""

from functools import partial

import pytest
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import CancelledError

from core.ids import run_id_of_execution
from core.temporal.client import FUNCTION, PROJECT
from provisioners.base import Exited, ProvisionerError, UnrecoverableProvisioningError
from tests.support.harness import (
    LIMITED,
    RETRYABLE,
    STANDARD,
    ControlPlane,
    Json,
    RunningExecution,
    eventually,
    eventually_true,
    function_spec,
)


def is_over(seen: Json) -> bool:
    return bool(seen["invocation_status"] == "TERMINATED")


def was_signalled(run: RunningExecution) -> bool:
    return run.worker.terminations > 0


async def test_e2e_1_two_invocations_from_start_to_end(control_plane: ControlPlane) -> None:
    """E2E-1 to E2E-1g: one succeeds, one fails, neither is retried."""
    plane = control_plane
    await plane.deploy(STANDARD, LIMITED, RETRYABLE)
    paths = [await plane.invoke("standard", argument=n) for n in (1, 2)]

    good, bad = [await plane.until_worker_runs(path) for path in paths]
    for path, run, number in zip(paths, (good, bad), (1, 2), strict=True):
        (execution,) = (await plane.get(path))["executions"]
        assert execution["execution_start_time"] is None
        assert execution["execution_finish_time"] is None
        # E2E-1a
        assert run.id in plane.provisioner.workers
        shown = await plane.get(run.path)
        assert shown["input"] == str(number)
        assert shown["cancellation_request_time"] is None
    # E2E-1b
    for path, run in zip(paths, (good, bad), strict=True):
        await run.start()
        (execution,) = (await plane.get(path))["executions"]
        assert execution["execution_start_time"] is not None
        assert execution["execution_finish_time"] is None
    # E2E-1c
    await good.update("half way")
    (execution,) = (await plane.get(paths[0]))["executions"]
    assert (execution["output"], execution["outcome"]) == ("half way", None)
    assert execution["execution_finish_time"] is None
    # E2E-1d, E2E-1e
    await good.finish("SUCCEEDED", output="42")
    await bad.finish("FAILED", error="ValueError: no")
    (execution,) = (await plane.get(paths[0]))["executions"]
    assert (execution["output"], execution["outcome"]) == ("42", "SUCCEEDED")
    assert execution["execution_finish_time"] is not None
    assert execution["worker_status"] == "RUNNING"
    (execution,) = (await plane.get(paths[1]))["executions"]
    assert (execution["error_message"], execution["outcome"]) == ("ValueError: no", "FAILED")
    assert execution["execution_finish_time"] is not None
    # E2E-1f
    good.worker.lines.append("hello")
    good.worker.end()
    bad.worker.end(Exited(exit_code=1))
    over = [await plane.until_terminated(path) for path in paths]
    assert [seen["phase"] for seen in over] == ["SUCCEEDED", "FAILED"]
    for seen in over:
        assert [e["worker_status"] for e in seen["executions"]] == ["TERMINATED"]
    assert over[0]["executions"][0]["cause"] == "succeeded"
    assert over[1]["executions"][0]["cause"] == "user_error"
    # E2E-1g
    assert (await plane.get(f"{good.path}/logs"))["log_lines"] == ["hello"]


async def test_e2e_2_cancelling_a_parent_cancels_its_child(control_plane: ControlPlane) -> None:
    """E2E-2, E2E-2b to E2E-2d, SIG-2, SIG-3, CAN-1."""
    plane = control_plane
    await plane.deploy(STANDARD)
    parent_path = await plane.invoke("standard")
    parent = await plane.until_worker_runs(parent_path)
    parent_id = parent_path.rsplit("/", 1)[1]
    child_path = await plane.invoke(
        "standard",
        parent_invocation={"function_name": "standard", "invocation_id": parent_id},
    )
    child = await plane.until_worker_runs(child_path)
    plane.provisioner.obedient = False
    for run in (parent, child):
        await run.start()
        assert run.worker.terminations == 0

    await plane.call("PUT", f"{parent_path}/cancel")

    for path, run in ((parent_path, parent), (child_path, child)):
        seen = await plane.until(path, lambda s: s["executions"][0]["termination_signal_time"])
        assert seen["cancellation_request_time"] is not None
        assert seen["invocation_status"] == "RUNNING"
        assert seen["phase"] == "CANCELLING"
        await eventually_true(partial(was_signalled, run))
        await run.finish("ABORTED")
        run.worker.end()
    for path in (parent_path, child_path):
        over = await plane.until_terminated(path)
        assert over["phase"] == "CANCELLED"
        assert [e["outcome"] for e in over["executions"]] == ["ABORTED"]
        assert over["executions"][0]["cause"] == "cancelled"
    assert (parent.worker.terminations, child.worker.terminations) == (1, 1)


async def test_e2e_3_a_timeout_ends_the_worker_politely(control_plane: ControlPlane) -> None:
    """E2E-3, SIG-4: the signal does not come before the timeout, and there is no cancellation."""
    plane = control_plane
    plane.provisioner.obedient = False
    path, run, timeout = await plane.run_until_timeout(retries=3)
    await run.start()

    seen = await plane.until(path, lambda s: s["executions"][0]["termination_signal_time"])

    signalled = seen["executions"][0]["termination_signal_time"]
    assert signalled > seen["creation_time"] + timeout
    assert seen["cancellation_request_time"] is None
    await run.finish("ABORTED")
    run.worker.end()
    over = await plane.until_terminated(path)
    assert over["phase"] == "TIMED_OUT"
    assert [e["outcome"] for e in over["executions"]] == ["ABORTED"]


async def test_e2e_4_a_worker_that_says_nothing_after_its_timeout(
    control_plane: ControlPlane,
) -> None:
    """E2E-4: the outcome stays null, and there is no retry."""
    plane = control_plane
    path, _, _ = await plane.run_until_timeout(retries=3)
    over = await plane.until_terminated(path)
    assert [e["outcome"] for e in over["executions"]] == [None]
    assert over["executions"][0]["cause"] == "timed_out"
    assert over["phase"] == "TIMED_OUT"


async def test_e2e_7_a_failed_execution_is_retried(control_plane: ControlPlane) -> None:
    """E2E-7, INV-8, INV-1."""
    plane = control_plane
    await plane.deploy(RETRYABLE)
    path = await plane.invoke("retryable")
    await (await plane.until_worker_runs(path)).play("FAILED", error="ValueError: once")
    second = await plane.until_worker_runs(path, attempt=2)
    seen = await plane.get(path)
    assert [e["worker_status"] for e in seen["executions"]] == ["TERMINATED", "RUNNING"]
    await second.play("SUCCEEDED", output="1")
    over = await plane.until_terminated(path)
    assert [e["outcome"] for e in over["executions"]] == ["FAILED", "SUCCEEDED"]
    assert [e["worker_status"] for e in over["executions"]] == ["TERMINATED"] * 2
    assert [e["attempt"] for e in over["executions"]] == [1, 2]


async def test_e2e_8_a_vanished_worker_is_retried(control_plane: ControlPlane) -> None:
    """E2E-8, INV-9."""
    plane = control_plane
    await plane.deploy(RETRYABLE)
    path = await plane.invoke("retryable")
    first = await plane.until_worker_runs(path)
    await first.start()
    first.worker.end(Exited(exit_code=137, detail="killed by signal 9 (SIGKILL)"))
    await (await plane.until_worker_runs(path, attempt=2)).play("SUCCEEDED", output="1")
    over = await plane.until_terminated(path)
    assert [e["outcome"] for e in over["executions"]] == [None, "SUCCEEDED"]
    assert over["executions"][0]["cause"] == "worker_lost"
    assert "killed by signal 9" in over["executions"][0]["error_message"]


async def test_e2e_9_a_definite_refusal_fails_the_execution(control_plane: ControlPlane) -> None:
    """E2E-9: one execution, directly TERMINATED, with the provisioner's text."""
    plane = control_plane
    await plane.deploy(STANDARD)
    plane.provisioner.provision_errors.append(UnrecoverableProvisioningError("no such zone"))
    over = await plane.until_terminated(await plane.invoke("standard"))
    (execution,) = over["executions"]
    assert execution["worker_status"] == "TERMINATED"
    assert execution["error_message"] == "no such zone"
    assert execution["outcome"] is None
    assert execution["cause"] == "provisioning_failed"
    assert over["phase"] == "FAILED"


async def test_inv_5_the_last_attempt_fails(control_plane: ControlPlane) -> None:
    """INV-5: max_retries + 1 failed executions end the invocation."""
    plane = control_plane
    await plane.deploy(function_spec("twice", retries=1))
    path = await plane.invoke("twice")
    for attempt in (1, 2):
        run = await plane.until_worker_runs(path, attempt=attempt)
        await run.play("FAILED", error="ValueError: always")
    over = await plane.until_terminated(path)
    assert over["phase"] == "FAILED"
    assert len(over["executions"]) == 2


async def test_a_preparation_is_tried_again(control_plane: ControlPlane) -> None:
    plane = control_plane
    plane.provisioner.prepare_errors.append(ProvisionerError("not at home"))
    await plane.deploy(STANDARD)
    version = await plane.until(
        plane.version_path, lambda v: v["functions"][0]["function_status"] == "READY"
    )
    assert version["functions"][0]["prepared_function_details"] == {
        "type": "TEST",
        "identifier": "standard",
    }


async def test_a_retryable_provisioner_error_is_tried_again_within_the_attempt(
    control_plane: ControlPlane,
) -> None:
    plane = control_plane
    await plane.deploy(STANDARD)
    plane.provisioner.provision_errors.append(ProvisionerError("busy"))
    path = await plane.invoke("standard")
    await (await plane.until_worker_runs(path)).play("SUCCEEDED")
    assert len((await plane.until_terminated(path))["executions"]) == 1


async def test_a_cancel_during_provisioning_leaves_no_worker(control_plane: ControlPlane) -> None:
    """The call that is under way may make a worker: it is waited for, and the worker is ended."""
    plane = control_plane
    plane.provisioner.may_provision.clear()
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    await plane.until(path, lambda s: s["phase"] == "PROVISIONING")
    await plane.call("PUT", f"{path}/cancel")
    seen = await plane.get(path)
    assert seen["phase"] == "CANCELLING"
    assert not is_over(seen)
    plane.provisioner.may_provision.set()
    over = await plane.until_terminated(path)
    assert over["phase"] == "CANCELLED"
    assert await plane.provisioner.list_workers() == []


async def test_a_cancel_is_over_only_when_the_end_is_confirmed(
    control_plane: ControlPlane,
) -> None:
    plane = control_plane
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    run = await plane.until_worker_runs(path)
    plane.provisioner.terminate_errors += [ProvisionerError("no route to host")] * 3
    await plane.call("PUT", f"{path}/cancel")
    await eventually_true(lambda: len(plane.provisioner.terminate_errors) < 2)
    assert not is_over(await plane.get(path))
    assert (await plane.until_terminated(path))["phase"] == "CANCELLED"
    assert run.worker.terminations == 1


async def test_a_result_that_arrives_after_the_signal_counts(control_plane: ControlPlane) -> None:
    plane = control_plane
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    run = await plane.until_worker_runs(path)
    plane.provisioner.obedient = False
    await run.start()
    await plane.call("PUT", f"{path}/cancel")
    await plane.until(path, lambda s: s["executions"][0]["termination_signal_time"])
    await run.finish("SUCCEEDED", output="done")
    run.worker.end()
    over = await plane.until_terminated(path)
    assert over["phase"] == "SUCCEEDED"
    assert over["executions"][0]["output"] == "done"


async def test_a_cancel_between_two_attempts_takes_effect_at_once(
    control_plane: ControlPlane,
) -> None:
    plane = control_plane
    await plane.deploy(RETRYABLE)
    path = await plane.invoke("retryable")
    await (await plane.until_worker_runs(path)).play("FAILED", error="ValueError: once")
    await plane.until(path, lambda s: s["phase"] == "QUEUED")
    await plane.call("PUT", f"{path}/cancel")
    over = await plane.until_terminated(path)
    assert over["phase"] == "CANCELLED"
    assert len(over["executions"]) == 1


async def test_aborted_without_a_request_is_not_retried(control_plane: ControlPlane) -> None:
    plane = control_plane
    await plane.deploy(RETRYABLE)
    path = await plane.invoke("retryable")
    await (await plane.until_worker_runs(path)).play("ABORTED")
    over = await plane.until_terminated(path)
    assert len(over["executions"]) == 1
    assert over["phase"] == "CANCELLED"


async def test_temporal_shows_each_execution_as_a_run(control_plane: ControlPlane) -> None:
    """The UI explains an invocation: runs with readable summaries, details and failures."""
    plane = control_plane
    await plane.deploy(RETRYABLE)
    path = await plane.invoke("retryable")
    invocation_id = path.rsplit("/", 1)[1]
    await (await plane.until_worker_runs(path)).play("FAILED", error="ValueError: once")
    await (await plane.until_worker_runs(path, attempt=2)).play("SUCCEEDED")
    over = await plane.until_terminated(path)
    run_ids = [e["execution_id"].removeprefix("exe-") for e in over["executions"]]

    async def runs() -> list[tuple[str, str]]:
        query = f"WorkflowId = '{invocation_id}'"
        found = [run async for run in plane.temporal.list_workflows(query)]
        found.sort(key=lambda run: run.start_time)
        return [(run.run_id.replace("-", ""), str(run.status and run.status.name)) for run in found]

    seen = await eventually(runs, lambda found: [s for _, s in found] == ["FAILED", "COMPLETED"])
    assert [run_id for run_id, _ in seen] == run_ids
    first = plane.temporal.get_workflow_handle(
        invocation_id, run_id=run_id_of_execution(over["executions"][0]["execution_id"])
    )
    description = await first.describe()
    assert await description.static_summary() == "retryable @ shop"
    assert description.typed_search_attributes.search_attributes
    assert over["temporal_url"].endswith(f"/workflows/{invocation_id}")


async def test_a_name_is_no_markup_in_temporals_ui(control_plane: ControlPlane) -> None:
    """It is exact where calls are searched for."""
    plane = control_plane
    name, project = "`[x](javascript:alert)<b>", "www.evil.example"
    await plane.deploy(function_spec(name), project=project)
    path = await plane.invoke(name)
    handle = plane.temporal.get_workflow_handle(path.rsplit("/", 1)[1])
    await plane.until_worker_runs(path)
    description = await handle.describe()
    assert await description.static_summary() == (
        "`'[x](javascript:alert)<b>` @ `www.evil.example`"
    )
    details = await description.static_details()
    assert details is not None
    assert "of function `'[x](javascript:alert)<b>`, " in details
    assert "of project `www.evil.example`." in details
    metadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    heading = metadata.current_details.partition("\n")[0]
    assert heading == "`'[x](javascript:alert)<b> @ www.evil.example`"
    assert description.typed_search_attributes.get(FUNCTION) == name
    assert description.typed_search_attributes.get(PROJECT) == project
    await plane.http.put(f"{path}/cancel")
    await plane.until_terminated(path)


async def test_a_cancel_in_temporals_ui_ends_the_invocation(control_plane: ControlPlane) -> None:
    """The button of the web UI does what the API's cancel does."""
    plane = control_plane
    await plane.deploy(RETRYABLE)
    path = await plane.invoke("retryable")
    run = await plane.until_worker_runs(path)
    handle = plane.temporal.get_workflow_handle(path.rsplit("/", 1)[1])
    await handle.cancel()
    over = await plane.until_terminated(path)
    assert over["phase"] == "CANCELLED"
    assert run.worker.terminations == 1
    # The row is committed within the workflow's last task.
    with pytest.raises(WorkflowFailureError) as failure:
        await handle.result()
    assert isinstance(failure.value.cause, CancelledError)


async def test_worker_details_that_clients_could_not_read_are_refused(
    control_plane: ControlPlane,
) -> None:
    plane = control_plane
    await plane.deploy(STANDARD)
    plane.provisioner.worker_type = "K8S"
    over = await plane.until_terminated(await plane.invoke("standard"))
    assert over["phase"] == "FAILED"
    assert "does not fit: type" in over["executions"][0]["error_message"]
    assert await plane.provisioner.list_workers() == []

"""Who gets a termination signal, how often; and that there is one execution at a time.

The rules INV-n, SIG-n and CAN-n are those of docs/behaviours.md. That something does *not* happen
is read from the records of what has happened once everything is over: no waiting for nothing.
"""

from functools import partial

from tests.support.harness import (
    STANDARD,
    ControlPlane,
    RunningExecution,
    eventually_true,
    function_spec,
)


def was_signalled(run: RunningExecution) -> bool:
    return run.worker.terminations > 0


async def test_inv_2_while_a_worker_is_being_made_there_is_no_other_execution(
    control_plane: ControlPlane,
) -> None:
    """INV-2: also not when the workflow is told to ask again for a slot meanwhile."""
    plane = control_plane
    plane.provisioner.may_provision.clear()
    await plane.deploy(function_spec("f", retries=3))
    path = await plane.invoke("f")
    await plane.until(path, lambda seen: seen["phase"] == "PROVISIONING")
    handle = plane.temporal.get_workflow_handle(path.rsplit("/", 1)[1])
    for _ in range(3):
        await handle.signal("wake")
    # Later than the signals in the history, so they have been handled when this one ends.
    other = await plane.invoke("f")
    await plane.until(other, lambda seen: seen["phase"] == "PROVISIONING")
    (waiting,) = (await plane.get(path))["executions"]
    assert waiting["worker_status"] == "PROVISIONING"

    plane.provisioner.may_provision.set()

    for each in (path, other):
        await (await plane.until_worker_runs(each)).play("SUCCEEDED")
        (execution,) = (await plane.until_terminated(each))["executions"]
        assert execution["attempt"] == 1
    assert len(plane.provisioner.workers) == 2


async def test_sig_1_nobody_gets_a_signal_without_a_reason(control_plane: ControlPlane) -> None:
    """SIG-1: neither a success nor a failure, nor the retry that follows it."""
    plane = control_plane
    await plane.deploy(function_spec("f", retries=1))
    paths = [await plane.invoke("f") for _ in range(2)]
    good, bad = [await plane.until_worker_runs(path) for path in paths]
    await good.play("SUCCEEDED")
    await bad.play("FAILED", error="ValueError: once")
    again = await plane.until_worker_runs(paths[1], attempt=2)
    await again.play("SUCCEEDED")
    for path in paths:
        over = await plane.until_terminated(path)
        assert {e["termination_signal_time"] for e in over["executions"]} == {None}
    assert [run.worker.terminations for run in (good, bad, again)] == [0, 0, 0]


async def test_sig_5_a_timeout_signals_once_also_with_a_cancel_after_it(
    control_plane: ControlPlane,
) -> None:
    """SIG-5: the cancel is recorded, and the time of the first signal stays."""
    plane = control_plane
    plane.provisioner.obedient = False
    path, run, _ = await plane.run_until_timeout(retries=3)
    await run.start()
    await eventually_true(partial(was_signalled, run))
    signalled = (await plane.get(path))["executions"][0]["termination_signal_time"]

    cancelled = await plane.call("PUT", f"{path}/cancel")

    assert cancelled["cancellation_request_time"] is not None
    await run.finish("ABORTED")
    run.worker.end()
    over = await plane.until_terminated(path)
    assert over["executions"][0]["termination_signal_time"] == signalled
    assert run.worker.terminations == 1
    assert over["phase"] == "TIMED_OUT"


async def test_sig_6_a_cancel_signals_that_invocation_alone(control_plane: ControlPlane) -> None:
    """SIG-6; also CAN-2, CAN-4 and CAN-5: not a sibling, not the parent, not a stranger."""
    plane = control_plane
    await plane.deploy(STANDARD)
    parent_path = await plane.invoke("standard")
    parent = {"function_name": "standard", "invocation_id": parent_path.rsplit("/", 1)[1]}
    child_path, sibling_path = [
        await plane.invoke("standard", parent_invocation=parent) for _ in range(2)
    ]
    stranger_path = await plane.invoke("standard")
    others = {
        path: await plane.until_worker_runs(path)
        for path in (parent_path, sibling_path, stranger_path)
    }
    child = await plane.until_worker_runs(child_path)

    await plane.call("PUT", f"{child_path}/cancel")

    assert (await plane.until_terminated(child_path))["phase"] == "CANCELLED"
    assert child.worker.terminations == 1
    for path, run in others.items():
        seen = await plane.get(path)
        assert (seen["phase"], seen["cancellation_request_time"]) == ("PROVISIONING", None)
        await run.play("SUCCEEDED")
        over = await plane.until_terminated(path)
        assert over["phase"] == "SUCCEEDED"
        assert over["executions"][0]["termination_signal_time"] is None
        assert run.worker.terminations == 0

"""Runs that were terminated by hand, and sweeps."""

from datetime import datetime, timedelta

from temporalio.client import Client
from temporalio.common import RetryPolicy, WorkflowIDReusePolicy

from core.clock import utc_now
from core.ids import InvocationId
from core.messages import InvocationInput
from core.temporal.queues import control_queue, provisioner_queue
from provisioners.base import ProvisionerError
from tests.replay.cases.runs import SWEEPS, Recorded, invocation_id_of, over, run_of
from tests.support.harness import (
    RETRYABLE,
    STANDARD,
    ControlPlane,
    eventually,
    eventually_true,
)
from tests.support.sweeping import insert_row
from workflows.invocation import InvocationWorkflow


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


async def started_for_another_pool(plane: ControlPlane) -> Recorded:
    """By an API of before, say: it runs where its function does all the same."""
    await plane.deploy(STANDARD)
    path = await insert_row(plane.registry, plane, function="standard")
    invocation_id = invocation_id_of(path)
    queue = control_queue(plane.task_queue)
    await start_again(plane.temporal, invocation_id, queue, deadline_in=60, pool="elsewhere")
    await (await plane.until_worker_runs(path)).play("SUCCEEDED")
    (execution,) = (await over(plane, path, phase="SUCCEEDED"))["executions"]
    return {"runs-in-its-functions-pool": run_of(plane, path, execution)}


async def start_again(
    client: Client, invocation_id: str, queue: str, *, deadline_in: float, pool: str = "scripted"
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
            provisioner_queue=provisioner_queue(prefix, pool),
            heartbeat_seconds=2,
        ),
        id=invocation_id,
        task_queue=queue,
        retry_policy=RetryPolicy(maximum_attempts=6, initial_interval=timedelta(seconds=1)),
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
    )

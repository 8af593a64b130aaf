"""Invocations that wait for a slot of their function."""

from core.ids import VersionId
from registry.queries.invocations import create_invocation
from tests.replay.cases.runs import Recorded, invocation_id_of, over, run_of
from tests.support.harness import LIMITED, ControlPlane


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

"""Projects that are deleted."""

from temporalio.api.enums.v1 import EventType

from core.temporal.names import PROJECT_DELETION
from tests.replay.cases.runs import (
    DELETIONS,
    AnyHandle,
    Recorded,
    invocation_id_of,
    over,
    preparation_of,
)
from tests.support.harness import LIMITED, STANDARD, ControlPlane, eventually, eventually_true


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

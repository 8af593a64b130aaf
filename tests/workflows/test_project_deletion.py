"""Deleting a project with what runs in it. The rules are those of docs/behaviours.md."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import func, select
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle

from core.ids import ProjectId, deletion_workflow_id
from core.messages import CloseRequest
from core.states import InvocationStatus, Phase, QueueReason
from registry.database.engine import Registry
from registry.database.tables import Execution, Invocation
from registry.queries.projects import get_project
from registry.transitions.executions import close_execution
from tests.support.harness import (
    STANDARD,
    ControlPlane,
    eventually,
    eventually_true,
    function_spec,
    running_control_plane,
)
from tests.support.scripted_provisioner import ScriptedProvisioner

SHOP = "/projects/shop"
EMPTY_VERSION = {"default_docker_image": "i", "functions": []}
MINUTES = function_spec("minutes", timeout=600)
ONE_AT_A_TIME = function_spec("limited", concurrency=1, timeout=600)


async def deletion_of(
    plane: ControlPlane, registry: Registry, name: str = "shop"
) -> WorkflowHandle[Any, Any]:
    async with registry.autocommit() as session:
        project = await get_project(session, name=name)
    return plane.temporal.get_workflow_handle(deletion_workflow_id(ProjectId(project.id)))


async def until_gone(plane: ControlPlane, name: str = "shop", *, seconds: float = 60) -> None:
    async def look() -> int:
        return (await plane.http.get(f"/projects/{name}")).status_code

    await eventually(look, lambda status: status == 404, seconds=seconds)


async def names(plane: ControlPlane) -> list[str]:
    return [project["project_name"] for project in (await plane.get("/projects"))["projects"]]


async def status_of(handle: WorkflowHandle[Any, Any]) -> WorkflowExecutionStatus | None:
    return (await handle.describe()).status


async def some_at_once(calls: Sequence[Callable[[], Awaitable[str]]]) -> list[str]:
    gate = asyncio.Semaphore(10)

    async def limited(call: Callable[[], Awaitable[str]]) -> str:
        async with gate:
            return await call()

    return await asyncio.gather(*(limited(call) for call in calls))


async def rows(registry: Registry, table: type[Invocation | Execution]) -> int:
    async with registry.autocommit() as session:
        return await session.scalar(select(func.count()).select_from(table)) or 0


async def test_e2e_10_a_project_is_deleted_when_nothing_runs_any_more(
    control_plane: ControlPlane, registry: Registry
) -> None:
    """E2E-10, E2E-10a, E2E-10b, INV-7, CAN-8: from the request to the free name."""
    plane = control_plane
    plane.provisioner.obedient = False
    await plane.deploy(STANDARD)
    first = await plane.invoke("standard")
    run = await plane.until_worker_runs(first)
    await run.start()

    asked = await plane.call("DELETE", SHOP)
    assert asked["deletion_request_time"] is not None
    second = await plane.invoke("standard")
    over = await plane.until_terminated(second)
    assert (over["phase"], over["executions"]) == ("CANCELLED", [])
    assert over["cancellation_request_time"] is not None

    cancelled = await plane.until(first, lambda s: s["executions"][0]["termination_signal_time"])
    assert cancelled["cancellation_request_time"] is not None
    assert (cancelled["invocation_status"], cancelled["phase"]) == ("RUNNING", "CANCELLING")
    await eventually_true(lambda: run.worker.terminations == 1)
    assert await plane.get(SHOP) == asked
    assert await names(plane) == ["shop"]
    assert (await plane.http.put(SHOP)).status_code == 409
    refused = await plane.http.post(f"{SHOP}/versions", json=EMPTY_VERSION)
    assert (refused.status_code, refused.json()) == (
        400,
        {"detail": "The project is being deleted"},
    )

    deletion = await deletion_of(plane, registry)
    await run.finish("ABORTED")
    run.worker.end()
    await until_gone(plane)
    assert await names(plane) == []
    assert await deletion.result() == "deleted, with 2 invocations"
    assert list(plane.provisioner.workers) == [run.id]
    assert (await plane.http.get(first)).json() == {
        "detail": "A project with this name does not exist"
    }
    # The name is free, and what comes now is another project.
    await plane.call("PUT", SHOP)
    assert (await plane.get(SHOP))["deletion_request_time"] is None
    assert (await plane.get(f"{SHOP}/versions"))["versions"] == []


async def test_del_1_hundreds_of_waiting_invocations_go_with_one_that_runs(
    control_plane: ControlPlane, registry: Registry
) -> None:
    """DEL-1, DEL-2: the waiting ones never get a worker; another project stays as it is."""
    plane = control_plane
    await plane.deploy(MINUTES, project="other")
    other = await plane.invoke("minutes")
    others_run = await plane.until_worker_runs(other)
    await plane.deploy(ONE_AT_A_TIME)
    running = await plane.invoke("limited")
    run = await plane.until_worker_runs(running)
    plane.provisioner.obedient = False
    waiting = await some_at_once([partial(plane.invoke, "limited")] * 200)
    workflows = [plane.temporal.get_workflow_handle(path.rsplit("/", 1)[1]) for path in waiting]

    await plane.call("DELETE", SHOP)
    over = [await plane.until_terminated(path, seconds=60) for path in waiting]
    assert {(seen["phase"], len(seen["executions"])) for seen in over} == {("CANCELLED", 0)}
    assert (await plane.get(running))["invocation_status"] == "RUNNING"
    await plane.call("GET", SHOP)
    await eventually_true(lambda: run.worker.terminations == 1)
    run.worker.end()
    await until_gone(plane)

    for workflow in workflows:
        assert await status_of(workflow) is not WorkflowExecutionStatus.RUNNING
    assert set(plane.provisioner.workers) == {run.id, others_run.id}
    assert await names(plane) == ["other"]
    untouched = await plane.get(other)
    assert untouched["invocation_status"] == "RUNNING"
    assert untouched["cancellation_request_time"] is None
    assert (await rows(registry, Invocation), await rows(registry, Execution)) == (1, 1)
    others_run.worker.end()
    await plane.until_terminated(other)


async def test_a_project_of_which_nothing_runs_goes_at_once(control_plane: ControlPlane) -> None:
    """DEL-1: also one without any version."""
    plane = control_plane
    await plane.call("PUT", "/projects/empty")
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    await (await plane.until_worker_runs(path)).play("SUCCEEDED")
    await plane.until_terminated(path)
    for name in ("empty", "shop"):
        await plane.call("DELETE", f"/projects/{name}")
        await until_gone(plane, name)


async def test_a_second_request_changes_nothing(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    plane.provisioner.obedient = False
    await plane.deploy(STANDARD)
    run = await plane.until_worker_runs(await plane.invoke("standard"))
    first = await plane.call("DELETE", SHOP)
    deletion = await deletion_of(plane, registry)
    run_id = (await deletion.describe()).run_id
    await eventually_true(lambda: run.worker.terminations == 1)
    assert await plane.call("DELETE", SHOP) == first
    assert (await deletion.describe()).run_id == run_id
    run.worker.end()
    await until_gone(plane)
    assert run.worker.terminations == 1


async def test_a_deletion_that_was_ended_by_hand_is_taken_up_by_the_next_request(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    plane.provisioner.obedient = False
    await plane.deploy(STANDARD)
    run = await plane.until_worker_runs(await plane.invoke("standard"))
    await plane.call("DELETE", SHOP)
    deletion = await deletion_of(plane, registry)
    await eventually_true(lambda: run.worker.terminations == 1)
    await deletion.terminate("by hand")
    # The end finds nobody to wake, and that does no harm.
    run.worker.end()
    workflow = plane.temporal.get_workflow_handle(run.path.split("/")[-3])
    await eventually(lambda: status_of(workflow), lambda s: s != WorkflowExecutionStatus.RUNNING)
    await plane.call("GET", SHOP)
    await plane.call("DELETE", SHOP)
    await until_gone(plane)


async def test_a_deletion_goes_on_in_another_temporal_worker(
    registry: Registry, temporal_client: Client, task_queue: str
) -> None:
    """Each Temporal worker dies at another step."""
    provisioner = ScriptedProvisioner()
    provisioner.obedient = False
    async with running_control_plane(
        registry, temporal_client, task_queue, provisioner=provisioner
    ) as plane:
        await plane.deploy(ONE_AT_A_TIME)
        paths = [await plane.invoke("limited") for _ in range(5)]
        run = await plane.until_worker_runs(paths[0])
        version_path = plane.version_path
    # Nobody is there when the request comes.
    async with running_control_plane(
        registry, temporal_client, f"{task_queue}-elsewhere", provisioner=provisioner
    ) as plane:
        plane.version_path = version_path
        late = await plane.invoke("limited")
    async with running_control_plane(
        registry, temporal_client, task_queue, provisioner=provisioner
    ) as plane:
        await plane.call("DELETE", SHOP)
        await plane.until_terminated(late)
        await plane.until(
            paths[0], lambda s: s["executions"][0]["termination_signal_time"], seconds=60
        )
    async with running_control_plane(
        registry, temporal_client, task_queue, provisioner=provisioner
    ) as plane:
        run.worker.end()
        await until_gone(plane)
    assert await rows(registry, Invocation) == 0


async def test_a_workflow_whose_end_was_missed_is_ended_before_its_row_goes(
    control_plane: ControlPlane, registry: Registry, temporal_client: Client
) -> None:
    """The Temporal worker died between the end of the rows and the end of their workflows."""
    plane = control_plane
    await plane.deploy(ONE_AT_A_TIME)
    run = await plane.until_worker_runs(await plane.invoke("limited"))
    waiting = await plane.invoke("limited")
    invocation_id = waiting.rsplit("/", 1)[1]
    await plane.until(waiting, lambda s: "concurrent" in (s["phase_detail"] or ""))
    async with registry.transaction() as session:
        row = await session.get_one(Invocation, invocation_id)
        row.queue_reason, row.phase, row.status = (
            QueueReason.WORKFLOW_LEFT,
            Phase.CANCELLED,
            InvocationStatus.TERMINATED,
        )
    workflow = temporal_client.get_workflow_handle(invocation_id)
    assert await status_of(workflow) is WorkflowExecutionStatus.RUNNING
    plane.provisioner.obedient = True
    await plane.call("DELETE", SHOP)
    await until_gone(plane)
    assert await status_of(workflow) is WorkflowExecutionStatus.TERMINATED
    assert run.worker.terminations == 1


async def test_a_lost_wake_is_made_up_for(control_plane: ControlPlane, registry: Registry) -> None:
    """The workflow of the last invocation is gone; its execution was closed all the same."""
    plane = control_plane
    plane.provisioner.obedient = False
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    run = await plane.until_worker_runs(path)
    await plane.call("DELETE", SHOP)
    await eventually_true(lambda: run.worker.terminations == 1)
    await plane.temporal.get_workflow_handle(path.rsplit("/", 1)[1]).terminate("by hand")
    async with registry.transaction() as session:
        await close_execution(session, CloseRequest(execution_id=run.id))
    run.worker.end()
    await until_gone(plane)

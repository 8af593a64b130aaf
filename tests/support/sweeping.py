"""What the tests of the sweep do beforehand: damage; and how they wait for its repair."""

from functools import partial
from typing import Any

from sqlalchemy import insert, select, update
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
)
from temporalio.service import RPCError, RPCStatusCode

from core.ids import InvocationId, creation_time_of, new_invocation_id
from core.states import QueueReason
from registry.database.engine import Registry
from registry.database.tables import Function, Invocation
from tests.support.harness import (
    LIMITED,
    ControlPlane,
    Json,
    RunningExecution,
    eventually,
    function_spec,
)

NOTHING = "nothing to repair"


def id_of(path: str) -> InvocationId:
    return InvocationId(path.rpartition("/")[2])


def waits_for_a_slot(seen: Json) -> bool:
    return "concurrent execution" in (seen["phase_detail"] or "")


async def line_up(plane: ControlPlane, count: int) -> tuple[RunningExecution, list[str]]:
    """Have one invocation run and others wait for its slot.

    Each has asked before the next one is there: who asks too early asks again by itself after a
    second, and would not need the sweep.
    """
    await plane.deploy(LIMITED)
    first = await plane.invoke("limited")
    run = await plane.until_worker_runs(first)
    paths = [first]
    for _ in range(count - 1):
        paths.append(await plane.invoke("limited"))
        await plane.until(paths[-1], waits_for_a_slot)
    return run, paths


async def fail_once(plane: ControlPlane) -> str:
    """Have an invocation between two attempts, for an hour; returns its path."""
    await plane.deploy(
        {
            **function_spec("flaky", retries=1, timeout=86_400),
            "retry_spec": {"initial_interval_seconds": 3600},
        }
    )
    path = await plane.invoke("flaky")
    await (await plane.until_worker_runs(path)).play("FAILED", error="ValueError: once")
    await plane.until(path, lambda s: "next attempt" in (s["phase_detail"] or ""))
    return path


async def write(registry: Registry, *statements: Any) -> None:
    async with registry.transaction() as session:
        for statement in statements:
            await session.execute(statement)


async def insert_row(registry: Registry, plane: ControlPlane, *, function: str) -> str:
    """Do what the API does before it starts the workflow; returns the invocation's path."""
    invocation_id = new_invocation_id()
    created_at = creation_time_of(invocation_id)
    async with registry.transaction() as session:
        function_id = await session.scalar(select(Function.id).where(Function.name == function))
        await session.execute(
            insert(Invocation).values(
                id=invocation_id,
                function_id=function_id,
                input="null",
                pool=plane.provisioner.kind,
                created_at=created_at,
                updated_at=created_at,
            )
        )
    return f"{plane.version_path}/functions/{function}/invocations/{invocation_id}"


async def status_of(client: Client, workflow_id: str) -> WorkflowExecutionStatus | None:
    return (await client.get_workflow_handle(workflow_id).describe()).status


async def until_status(
    plane: ControlPlane, workflow_id: str, wanted: WorkflowExecutionStatus
) -> None:
    await eventually(partial(status_of, plane.temporal, workflow_id), lambda seen: seen is wanted)


async def until_closed(plane: ControlPlane, workflow_id: str) -> None:
    await eventually(
        partial(status_of, plane.temporal, workflow_id),
        lambda seen: seen is not WorkflowExecutionStatus.RUNNING,
    )


async def lose_workflow(client: Client, workflow_id: str) -> None:
    """Make Temporal forget a workflow, as after the loss of its data."""
    await client.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id),
        )
    )

    async def is_unknown() -> bool:
        try:
            await status_of(client, workflow_id)
        except RPCError as error:
            return error.status is RPCStatusCode.NOT_FOUND
        return False

    await eventually(is_unknown, bool)


async def sweep_until(plane: ControlPlane, wanted: str) -> None:
    """Sweep until it has repaired this: Temporal's lists of workflows may be a little old."""
    await eventually(plane.sweep, lambda said: wanted in said)


async def hide(registry: Registry, paths: list[str]) -> None:
    await show(registry, paths, queue_reason=QueueReason.FUNCTION_NOT_READY)


async def show(registry: Registry, paths: list[str], **values: Any) -> None:
    ids = [id_of(path) for path in paths]
    await write(registry, update(Invocation).where(Invocation.id.in_(ids)).values(**values))


def is_ready(version: Json) -> bool:
    return bool(version["functions"][0]["function_status"] == "READY")

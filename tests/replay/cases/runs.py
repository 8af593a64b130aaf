"""What all cases need: the run that an execution was, and how it ended."""

from collections.abc import Awaitable, Callable

from temporalio.client import WorkflowExecutionStatus, WorkflowHandle

from core.ids import run_id_of_execution
from tests.support.harness import ControlPlane, Json, eventually
from workflows.invocation import InvocationWorkflow
from workflows.project_deletion import ProjectDeletionWorkflow
from workflows.sweep import SweepWorkflow
from workflows.version_preparation import VersionPreparationWorkflow

AnyHandle = WorkflowHandle[object, object]
Recorded = dict[str, AnyHandle]
"""Name of a history -> the run that it is the history of."""
Case = Callable[[ControlPlane], Awaitable[Recorded]]

INVOCATIONS = InvocationWorkflow.__name__
PREPARATIONS = VersionPreparationWorkflow.__name__
DELETIONS = ProjectDeletionWorkflow.__name__
SWEEPS = SweepWorkflow.__name__


def invocation_id_of(path: str) -> str:
    return path.rsplit("/", 1)[1]


def run_of(plane: ControlPlane, path: str, execution: Json) -> AnyHandle:
    return plane.temporal.get_workflow_handle(
        invocation_id_of(path), run_id=run_id_of_execution(execution["execution_id"])
    )


async def over(plane: ControlPlane, path: str, *, phase: str) -> Json:
    seen = await plane.until_terminated(path)
    assert seen["phase"] == phase, seen
    return seen


async def until_closed(handle: AnyHandle) -> None:
    async def status() -> WorkflowExecutionStatus | None:
        return (await handle.describe()).status

    await eventually(status, lambda seen: seen is not WorkflowExecutionStatus.RUNNING)


def preparation_of(plane: ControlPlane) -> AnyHandle:
    version_id = plane.version_path.rsplit("/", 1)[1]
    return plane.temporal.get_workflow_handle(f"prepare-{version_id}")

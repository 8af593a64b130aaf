"""What provisioner activities read and write about the worker of an execution."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from core.clock import utc_now
from core.ids import ExecutionId
from core.lifecycle import WorkerStatus
from registry.tables import Execution, Function, Project, Version


@dataclass(frozen=True)
class ExecutionContext:
    """An execution with what its worker is made from."""

    execution: Execution
    function: Function
    version: Version
    project: Project


async def get_execution_context(
    session: AsyncSession, execution_id: ExecutionId
) -> ExecutionContext | None:
    """Give an execution with its function, version and project, or None if it was deleted."""
    row = (
        await session.execute(
            select(Execution, Function, Version, Project)
            .join(Function, Function.id == Execution.function_id)
            .join(Version, Version.id == Function.version_id)
            .join(Project, Project.id == Version.project_id)
            .where(Execution.id == execution_id)
        )
    ).one_or_none()
    return None if row is None else ExecutionContext(*row)


async def record_worker(
    session: AsyncSession,
    execution_id: ExecutionId,
    *,
    state: Mapping[str, Any],
    details: Mapping[str, str] | None,
) -> None:
    """Note that the worker exists. A repetition, or one that comes too late, changes nothing."""
    await session.execute(
        update(Execution)
        .where(
            Execution.id == execution_id,
            Execution.worker_status.in_([WorkerStatus.PENDING, WorkerStatus.PROVISIONING]),
        )
        .values(
            worker_status=WorkerStatus.RUNNING,
            worker=dict(state),
            worker_details=None if details is None else dict(details),
            updated_at=utc_now(),
        )
    )


async def record_worker_exit(
    session: AsyncSession, execution_id: ExecutionId, *, worker_exit: Mapping[str, Any]
) -> None:
    """Keep what the provisioner said about the end, before it forgets the worker."""
    await session.execute(
        update(Execution)
        .where(Execution.id == execution_id, Execution.worker.is_not(None))
        .values(worker=Execution.worker.concat({"exit": dict(worker_exit)}))
    )

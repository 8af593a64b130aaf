"""What provisioner activities read and write about the worker of an execution."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from core.clock import utc_now
from core.ids import ExecutionId
from core.states import Phase, WorkerStatus
from registry.database.tables import Execution, Function, Invocation, Project, Version, table_of

# Built once: building a statement costs more than Postgres needs to answer it. Updates are of the
# table, not of the mapped class: nothing is loaded that would have to be kept in step.
_IS_MEANT = Execution.id == bindparam("execution_id")
_CONTEXT = (
    select(Execution, Function, Version, Project)
    .join(Function, Function.id == Execution.function_id)
    .join(Version, Version.id == Function.version_id)
    .join(Project, Project.id == Version.project_id)
    .where(_IS_MEANT)
    # Users' data, which may be large.
    .options(defer(Execution.output, raiseload=True), defer(Execution.progress, raiseload=True))
)
_RECORD_WORKER = (
    update(table_of(Execution))
    .where(
        _IS_MEANT, Execution.worker_status.in_([WorkerStatus.PENDING, WorkerStatus.PROVISIONING])
    )
    .values(
        worker_status=WorkerStatus.RUNNING,
        worker=bindparam("state"),
        worker_details=bindparam("details"),
        updated_at=bindparam("now"),
    )
)
_RECORD_EXIT = (
    update(table_of(Execution))
    .where(_IS_MEANT, Execution.worker.is_not(None))
    .values(worker=Execution.worker.concat(bindparam("worker_exit", type_=Execution.worker.type)))
)


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
    row = (await session.execute(_CONTEXT, {"execution_id": execution_id})).one_or_none()
    return None if row is None else ExecutionContext(*row)


async def record_provision_call(session: AsyncSession, execution_id: ExecutionId) -> bool:
    """Note that the provisioner is about to be asked for a worker; the first time counts.

    Only for provisioners that cannot end a worker by its execution id.

    Returns:
        False if it must not be asked: the worker exists, or none is wanted any more.
    """
    recorded = await session.scalar(
        update(Execution)
        .where(
            Execution.id == execution_id,
            Execution.worker_status == WorkerStatus.PROVISIONING,
            Execution.worker.is_(None),
        )
        .values(provision_called_at=func.coalesce(Execution.provision_called_at, utc_now()))
        .returning(Execution.id)
    )
    return recorded is not None


async def forbid_provisioning(
    session: AsyncSession, execution_id: ExecutionId, *, worker_exit: Mapping[str, Any]
) -> bool:
    """Make sure that no worker is asked for any more, if none was so far.

    Returns:
        False if the provisioner was asked: there may be a worker.
    """
    await session.execute(
        update(Execution)
        .where(
            Execution.id == execution_id,
            Execution.worker_status.in_([WorkerStatus.PENDING, WorkerStatus.PROVISIONING]),
            Execution.worker.is_(None),
            Execution.provision_called_at.is_(None),
        )
        .values(worker={"exit": dict(worker_exit)})
    )
    called = await session.scalar(
        select(Execution.id).where(
            Execution.id == execution_id, Execution.provision_called_at.is_not(None)
        )
    )
    return called is None


async def record_termination_trouble(
    session: AsyncSession, execution_id: ExecutionId, *, trouble: str
) -> None:
    """Show why a worker cannot be ended yet, where its invocation waits for that."""
    waits = select(Execution.invocation_id).where(Execution.id == execution_id).scalar_subquery()
    # Not updated_at: clients rely on the time of the last change of status.
    await session.execute(
        update(Invocation)
        .where(Invocation.id == waits, Invocation.phase == Phase.CANCELLING)
        .values(trouble=trouble)
    )


async def record_provisioning_trouble(
    session: AsyncSession, execution_id: ExecutionId, *, trouble: str | None
) -> None:
    """Show what the making of a worker waits for, or that it waits no more (None)."""
    waits = select(Execution.invocation_id).where(Execution.id == execution_id).scalar_subquery()
    # Not updated_at: clients rely on the time of the last change of status.
    await session.execute(
        update(Invocation)
        .where(Invocation.id == waits, Invocation.phase.in_([Phase.PROVISIONING, Phase.RUNNING]))
        .values(trouble=trouble)
    )


async def record_worker(
    session: AsyncSession,
    execution_id: ExecutionId,
    *,
    state: Mapping[str, Any],
    details: Mapping[str, str] | None,
) -> None:
    """Note that the worker exists. A repetition, or one that comes too late, changes nothing."""
    await session.execute(
        _RECORD_WORKER,
        {
            "execution_id": execution_id,
            "state": dict(state),
            "details": None if details is None else dict(details),
            "now": utc_now(),
        },
    )


async def record_worker_exit(
    session: AsyncSession, execution_id: ExecutionId, *, worker_exit: Mapping[str, Any]
) -> None:
    """Keep what the provisioner said about the end, before it forgets the worker."""
    await session.execute(
        _RECORD_EXIT, {"execution_id": execution_id, "worker_exit": {"exit": dict(worker_exit)}}
    )


async def awaits_outcome(session: AsyncSession, execution_id: ExecutionId) -> bool:
    """Say whether an execution can still get its outcome: it has none, and is open."""
    found = await session.scalar(
        select(Execution.id).where(
            Execution.id == execution_id,
            Execution.outcome.is_(None),
            Execution.worker_status != WorkerStatus.TERMINATED,
        )
    )
    return found is not None

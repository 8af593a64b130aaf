"""What the sweep looks for in the registry, and what it writes there.

`before` is a time some seconds ago: what is younger is being worked on, and not looked at.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BindParameter, any_, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer
from sqlalchemy.types import Text

from core.errors import InvocationDoesNotExistError, InvocationIsAlreadyTerminatedError
from core.ids import ExecutionId, FunctionId, InvocationId, ProjectId, VersionId
from core.messages import InvocationStart
from core.states import InvocationStatus, Phase, PreparationStatus, QueueReason, WorkerStatus
from registry.database.tables import (
    Execution,
    Function,
    Invocation,
    Project,
    Version,
    pool_of_function,
)
from registry.explanations import ENDED_BY_HAND
from registry.queries.executions import has_open_execution
from registry.queries.invocations import start_of
from registry.queries.paths import SELECT_FUNCTION_CONTEXT, FunctionContext
from registry.transitions.cancellation import request_cancellation
from registry.transitions.slots import IS_OFFERED_SLOT, WAITS_FOR_SLOT, free_slots


@dataclass(frozen=True, kw_only=True)
class RunningInvocation:
    """An invocation whose workflow must be open."""

    invocation_id: InvocationId
    is_cancelled: bool
    """Its cancellation was requested, longer ago than the grace."""
    is_set_aside: bool
    """Others pass it in the queue, since its workflow was found to be gone."""


@dataclass(frozen=True, kw_only=True)
class Restart:
    """What is to be done for an invocation whose workflow is closed."""

    start: InvocationStart | None
    """None if it needs no workflow any more."""
    to_cancel: Sequence[InvocationId]
    """The invocations whose workflows are to be cancelled after the start."""
    cancelled: bool
    """Whether its cancellation was recorded."""


@dataclass(frozen=True, kw_only=True)
class UnpreparedVersion:
    """A version with functions whose preparation has not ended."""

    version_id: VersionId
    project_name: str
    default_pool: str


@dataclass(frozen=True, kw_only=True)
class ProjectToDelete:
    """A project whose deletion was requested."""

    project_id: ProjectId
    name: str


async def list_running(
    session: AsyncSession,
    *,
    pool: str,
    after: InvocationId | None,
    before: datetime,
    limit: int,
) -> list[RunningInvocation]:
    """Give the next RUNNING invocations of a pool, in the order of their ids."""
    query = (
        select(
            Invocation.id,
            func.coalesce(Invocation.cancellation_requested_at < before, False),
            func.coalesce(Invocation.queue_reason == QueueReason.WORKFLOW_LOST, False),
        )
        .where(
            Invocation.status == InvocationStatus.RUNNING,
            Invocation.pool == pool,
            Invocation.created_at < before,
        )
        .order_by(Invocation.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(Invocation.id > after)
    return [
        RunningInvocation(
            invocation_id=InvocationId(invocation_id),
            is_cancelled=is_cancelled,
            is_set_aside=is_set_aside,
        )
        for invocation_id, is_cancelled, is_set_aside in await session.execute(query)
    ]


async def list_ended_with_open_execution(
    session: AsyncSession, *, pool: str, before: datetime, limit: int
) -> list[InvocationId]:
    """Give TERMINATED invocations whose last worker no watch has seen ending."""
    found = await session.scalars(
        select(Invocation.id)
        .join(Execution, Execution.invocation_id == Invocation.id)
        .where(
            Execution.worker_status != WorkerStatus.TERMINATED,
            Execution.pool == pool,
            Invocation.status == InvocationStatus.TERMINATED,
            Invocation.updated_at < before,
        )
        .limit(limit)
    )
    return [InvocationId(invocation_id) for invocation_id in found]


async def list_missing(
    session: AsyncSession, invocation_ids: Sequence[InvocationId]
) -> list[InvocationId]:
    """Give those of the invocations that have no row."""
    rows = await session.scalars(
        select(Invocation.id).where(Invocation.id == any_(_array(invocation_ids)))
    )
    known = set(rows)
    return [invocation_id for invocation_id in invocation_ids if invocation_id not in known]


async def list_ended_by_cancel(
    session: AsyncSession, invocation_ids: Sequence[InvocationId], *, before: datetime
) -> list[InvocationId]:
    """Give those of the invocations that a cancel has ended, longer ago than the grace."""
    found = await session.scalars(
        select(Invocation.id).where(
            Invocation.id == any_(_array(invocation_ids)),
            Invocation.phase == Phase.CANCELLED,
            Invocation.terminated_at < before,
        )
    )
    return [InvocationId(invocation_id) for invocation_id in found]


async def begin_again(
    session: AsyncSession, invocation_id: InvocationId, *, ended_by_hand: bool
) -> Restart:
    """Say how an invocation goes on whose workflow is closed or was never started.

    Args:
        session: the transaction.
        invocation_id: the invocation.
        ended_by_hand: whether a person has ended its workflow. That person wants it to stop, so
            its cancellation is recorded, with everything below it.
    """
    to_cancel: Sequence[InvocationId] = ()
    cancelled = False
    if ended_by_hand:
        with suppress(InvocationIsAlreadyTerminatedError, InvocationDoesNotExistError):
            to_cancel = await request_cancellation(session, invocation_id, reason=ENDED_BY_HAND)
            cancelled = True
    row = (
        await session.execute(
            SELECT_FUNCTION_CONTEXT.add_columns(Invocation)
            .join(Invocation, Invocation.function_id == Function.id)
            .where(
                Invocation.id == invocation_id,
                (Invocation.status == InvocationStatus.RUNNING) | has_open_execution(),
            )
            .options(defer(Invocation.input, raiseload=True))
        )
    ).one_or_none()
    if row is None:
        below = [other for other in to_cancel if other != invocation_id]
        return Restart(start=None, to_cancel=below, cancelled=cancelled)
    function, version, project, invocation = row
    context = FunctionContext(function=function, version=version, project=project)
    return Restart(start=start_of(context, invocation), to_cancel=to_cancel, cancelled=cancelled)


async def list_forgotten_descendants(
    session: AsyncSession, *, pool: str, before: datetime, limit: int
) -> list[InvocationId]:
    """Give RUNNING invocations without a cancellation request below one that has got one."""
    lineage = (
        select(Invocation.id.label("invocation_id"), Invocation.parent_id)
        .where(
            Invocation.status == InvocationStatus.RUNNING,
            Invocation.pool == pool,
            Invocation.parent_id.is_not(None),
            Invocation.cancellation_requested_at.is_(None),
            Invocation.created_at < before,
        )
        .cte("lineage", recursive=True)
    )
    lineage = lineage.union(
        select(lineage.c.invocation_id, Invocation.parent_id)
        .join(Invocation, Invocation.id == lineage.c.parent_id)
        .where(Invocation.cancellation_requested_at.is_(None))
    )
    found = await session.scalars(
        select(lineage.c.invocation_id)
        .join(Invocation, Invocation.id == lineage.c.parent_id)
        .where(Invocation.cancellation_requested_at < before)
        .distinct()
        .limit(limit)
    )
    return [InvocationId(invocation_id) for invocation_id in found]


async def list_functions_with_idle_slots(
    session: AsyncSession, *, pool: str, before: datetime, limit: int
) -> list[FunctionId]:
    """Give functions of which invocations wait for a slot, while one is neither used nor offered.

    `registry.transitions.slots.offer_slots` decides, under the function's lock.
    """
    waiting = (
        select(Invocation.function_id)
        .where(
            WAITS_FOR_SLOT,
            Invocation.pool == pool,
            Invocation.created_at < before,
        )
        .distinct()
    )
    found = await session.scalars(
        select(Function.id).where(Function.id.in_(waiting), free_slots() > 0).limit(limit)
    )
    return [FunctionId(function_id) for function_id in found]


async def list_offered(
    session: AsyncSession, *, pool: str, before: datetime, limit: int
) -> list[InvocationId]:
    """Give invocations that were offered a slot and have not asked for it."""
    found = await session.scalars(
        select(Invocation.id)
        .where(
            IS_OFFERED_SLOT,
            Invocation.pool == pool,
            Invocation.offered_at < before,
        )
        .order_by(Invocation.id)
        .limit(limit)
    )
    return [InvocationId(invocation_id) for invocation_id in found]


async def list_unprepared_versions(
    session: AsyncSession, *, pool: str, before: datetime, limit: int
) -> list[UnpreparedVersion]:
    """Give versions with functions of a pool whose preparation has not ended, oldest first."""
    pending = (
        select(Function.version_id)
        .join(Version, Version.id == Function.version_id)
        .where(Function.preparation_status == PreparationStatus.PENDING, pool_of_function() == pool)
    )
    rows = await session.execute(
        select(Version.id, Project.name, Version.default_pool)
        .join(Project, Project.id == Version.project_id)
        .where(
            Version.id.in_(pending),
            Version.created_at < before,
            Project.deletion_requested_at.is_(None),
        )
        .order_by(Version.id)
        .limit(limit)
    )
    return [
        UnpreparedVersion(
            version_id=VersionId(version_id), project_name=name, default_pool=default_pool
        )
        for version_id, name, default_pool in rows
    ]


async def list_projects_to_delete(
    session: AsyncSession, *, before: datetime, limit: int
) -> list[ProjectToDelete]:
    """Give projects whose deletion was requested, oldest first."""
    rows = await session.execute(
        select(Project.id, Project.name)
        .where(Project.deletion_requested_at < before)
        .order_by(Project.id)
        .limit(limit)
    )
    return [ProjectToDelete(project_id=ProjectId(found), name=name) for found, name in rows]


async def find_leftovers(
    session: AsyncSession, execution_ids: Sequence[ExecutionId], *, ended_before: datetime
) -> Mapping[ExecutionId, Execution | None]:
    """Give the executions that need no worker: ended before a time, or deleted (None)."""
    executions = await session.scalars(
        select(Execution).where(Execution.id == any_(_array(execution_ids)))
    )
    known = {execution.id: execution for execution in executions}
    leftovers: dict[ExecutionId, Execution | None] = {}
    for execution_id in execution_ids:
        execution = known.get(execution_id)
        if execution is None or (
            execution.worker_status == WorkerStatus.TERMINATED
            and execution.terminated_at is not None
            and execution.terminated_at < ended_before
        ):
            leftovers[execution_id] = execution
    return leftovers


def _array(ids: Sequence[str]) -> BindParameter[Sequence[str]]:
    return literal(list(ids), ARRAY(Text))

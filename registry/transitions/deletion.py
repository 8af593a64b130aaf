"""Deleting a project: the request, ending what runs in it, and its rows, in small transactions.

Everything here may be done again from the start: what is left to do is read from the rows. The
order is that of `workflows.project_deletion`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from sqlalchemy import (
    ColumnElement,
    Delete,
    any_,
    case,
    delete,
    exists,
    false,
    func,
    lateral,
    literal,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import Text

from core.clock import utc_now
from core.errors import ProjectDoesNotExistError
from core.ids import FunctionId, InvocationId, ProjectId, VersionId
from core.states import InvocationStatus, Phase, QueueReason
from registry.database.tables import Execution, Function, Invocation, LogChunk, Project, Version
from registry.explanations import PROJECT_BEING_DELETED
from registry.queries.executions import has_open_execution
from registry.transitions.ending import end_invocations
from registry.transitions.phases import change_phase
from registry.transitions.slots import lock_function

ROWS_AT_ONCE: Final = 500
"""Rows that one transaction changes or deletes, so that none takes long."""
_EXECUTIONS_AT_ONCE: Final = 1_000
_FUNCTIONS_AT_ONCE: Final = 100

_HAS_WORKFLOW_TO_END = or_(
    Invocation.workflow_to_end,
    # As servers wrote it that had no such column.
    func.coalesce(Invocation.queue_reason == QueueReason.WORKFLOW_LEFT, false()),
)


@dataclass(frozen=True, kw_only=True)
class Cancellations:
    """What became of some invocations of a function whose project is being deleted."""

    ended: Sequence[InvocationId]
    """Had no open execution: they are TERMINATED now, and their workflows are of no more use."""
    running: Sequence[InvocationId]
    """Have an open execution, and a request for cancellation: their workflows are to hear of it."""


async def request_project_deletion(session: AsyncSession, *, name: str) -> Project:
    """Record the wish to delete a project; returns it. Repeating it keeps the first time.

    From the commit on the project takes no new version, and its invocations get no further
    execution.

    Raises:
        ProjectDoesNotExistError: no project has this name.
    """
    project: Project | None = await session.scalar(
        update(Project)
        .where(Project.name == name)
        .values(deletion_requested_at=func.coalesce(Project.deletion_requested_at, utc_now()))
        .returning(Project)
    )
    if project is None:
        raise ProjectDoesNotExistError
    return project


async def list_running_functions(
    session: AsyncSession, project_id: ProjectId, *, start: FunctionId | None
) -> list[FunctionId]:
    """Name the functions of a project that have a RUNNING invocation, in a fixed order.

    With `start`, begin at that function.
    """
    has_running = exists().where(
        Invocation.function_id == Function.id, Invocation.status == InvocationStatus.RUNNING
    )
    functions = await session.scalars(
        select(Function.id)
        .join(Version, Version.id == Function.version_id)
        .where(
            Version.project_id == project_id,
            has_running,
            true() if start is None else Function.id >= start,
        )
        .order_by(Function.id)
    )
    return [FunctionId(function_id) for function_id in functions]


async def cancel_some(session: AsyncSession, function_id: FunctionId) -> Cancellations:
    """Request the cancellation of all that runs of a function, and end some of what only waits.

    Up to `ROWS_AT_ONCE` are ended: call it again until fewer are. Those that were cancelled before
    keep their time.
    """
    # With the function locked no execution of it is opened or closed meanwhile. One that asks
    # later finds its invocation ended, or the request.
    if await lock_function(session, function_id) is None:
        return Cancellations(ended=(), running=())
    of_function = (
        Invocation.function_id == function_id,
        Invocation.status == InvocationStatus.RUNNING,
    )
    running = await session.scalars(
        select(Invocation.id)
        .where(*of_function, has_open_execution())
        .order_by(Invocation.id)
        .with_for_update()
    )
    running_ids = [InvocationId(invocation_id) for invocation_id in running]
    now = utc_now()
    if running_ids:
        await session.execute(
            change_phase(
                _is_in(Invocation.id, running_ids),
                Invocation.cancellation_requested_at.is_(None),
                phase=Phase.CANCELLING,
                detail=PROJECT_BEING_DELETED,
                cancellation_requested_at=now,
                updated_at=now,
            )
        )
    waiting = (
        select(Invocation.id)
        .where(*of_function, ~has_open_execution())
        .order_by(Invocation.id)
        .limit(ROWS_AT_ONCE)
        .with_for_update()
    )
    ended = await session.scalars(
        end_invocations(
            Invocation.id.in_(waiting),
            phase=Phase.CANCELLED,
            detail=PROJECT_BEING_DELETED,
            at=now,
            cancellation_requested_at=func.coalesce(Invocation.cancellation_requested_at, now),
            workflow_to_end=True,
        )
    )
    return Cancellations(ended=[InvocationId(ended_id) for ended_id in ended], running=running_ids)


async def record_workflows_ended(
    session: AsyncSession, invocation_ids: Sequence[InvocationId]
) -> None:
    """Note that the workflows of invocations that were ended here are gone too."""
    await session.execute(
        update(Invocation)
        .where(_is_in(Invocation.id, invocation_ids), _HAS_WORKFLOW_TO_END)
        .values(workflow_to_end=False, queue_reason=None)
        .execution_options(synchronize_session=False)
    )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some ended invocations that are to be deleted next."""

    invocation_ids: Sequence[InvocationId]
    """Newest first, so children before their parents."""
    workflows_to_end: Sequence[InvocationId]
    """Those of them whose workflows are to be ended before the row goes, which tells of them."""


async def list_versions(session: AsyncSession, project_id: ProjectId) -> list[VersionId]:
    """Name the versions of a project, newest first."""
    versions = await session.scalars(
        select(Version.id).where(Version.project_id == project_id).order_by(Version.id.desc())
    )
    return [VersionId(version_id) for version_id in versions]


async def next_batch(session: AsyncSession, version_id: VersionId) -> Batch:
    """Choose the newest ended invocations of a version, with not too many executions."""
    newest = lateral(
        select(Invocation.id, _HAS_WORKFLOW_TO_END.label("has_workflow_to_end"))
        .where(
            Invocation.function_id == Function.id,
            Invocation.status == InvocationStatus.TERMINATED,
        )
        .order_by(Invocation.id.desc())
        .limit(ROWS_AT_ONCE)
    )
    executions = (
        select(func.count())
        .where(Execution.invocation_id == newest.c.id)
        .correlate(newest)
        .scalar_subquery()
    )
    found = (
        await session.execute(
            select(newest.c.id, newest.c.has_workflow_to_end, executions)
            .select_from(Function)
            .join(newest, true())
            .where(Function.version_id == version_id)
            .order_by(newest.c.id.desc())
            .limit(ROWS_AT_ONCE)
        )
    ).all()
    totals = accumulate(count for _, _, count in found)
    rows = [
        (InvocationId(invocation_id), has_workflow_to_end)
        for number, ((invocation_id, has_workflow_to_end, _), total) in enumerate(
            zip(found, totals, strict=True)
        )
        if number == 0 or total <= _EXECUTIONS_AT_ONCE
    ]
    return Batch(
        invocation_ids=[invocation_id for invocation_id, _ in rows],
        workflows_to_end=[
            invocation_id for invocation_id, has_workflow_to_end in rows if has_workflow_to_end
        ],
    )


async def cut_off_children(session: AsyncSession, parent_ids: Sequence[InvocationId]) -> int:
    """Make some children that are not among their parents forget them; returns how many.

    A child is newer than its parent and is deleted before it; except for one that is just being
    created, or that an API process with a slow clock has made. Without this, deleting the parent
    would delete any number of those at one blow.
    """
    children = (
        select(Invocation.id)
        .where(_is_in(Invocation.parent_id, parent_ids), ~_is_in(Invocation.id, parent_ids))
        .limit(ROWS_AT_ONCE)
    )
    cut = await session.scalars(
        update(Invocation)
        .where(Invocation.id.in_(children))
        .values(parent_id=None)
        .returning(Invocation.id)
        .execution_options(synchronize_session=False)
    )
    return len(cut.all())


async def delete_log_chunks(session: AsyncSession, invocation_ids: Sequence[InvocationId]) -> int:
    """Delete some log chunks of invocations; returns how many."""
    chunks = (
        select(LogChunk.execution_id, LogChunk.first_line)
        .join(Execution, Execution.id == LogChunk.execution_id)
        .where(_is_in(Execution.invocation_id, invocation_ids))
        .limit(ROWS_AT_ONCE)
    )
    return await _count(
        session,
        delete(LogChunk).where(tuple_(LogChunk.execution_id, LogChunk.first_line).in_(chunks)),
    )


async def delete_invocations(session: AsyncSession, invocation_ids: Sequence[InvocationId]) -> int:
    """Delete ended invocations with their executions, in one step; returns how many."""
    await session.execute(delete(Execution).where(_is_in(Execution.invocation_id, invocation_ids)))
    return await _count(
        session,
        delete(Invocation).where(
            _is_in(Invocation.id, invocation_ids),
            Invocation.status == InvocationStatus.TERMINATED,
        ),
    )


async def delete_functions(session: AsyncSession, project_id: ProjectId) -> bool | None:
    """Delete some functions of a project that has no more than a handful of invocations.

    Invocations that have arrived in the meantime go with their functions; they cannot have an
    execution.

    Returns:
        Whether functions are left; None if there are too many invocations yet.
    """
    # From here to the commit no invocation of the project is being created.
    await session.execute(select(Project.id).where(Project.id == project_id).with_for_update())
    functions = (
        await session.scalars(
            select(Function.id)
            .join(Version, Version.id == Function.version_id)
            .where(Version.project_id == project_id)
            .order_by(Function.id.desc())
            .limit(_FUNCTIONS_AT_ONCE)
        )
    ).all()
    left = (
        await session.execute(
            select(Invocation.id, case((has_open_execution(), True), else_=False))
            .where(_is_in(Invocation.function_id, functions))
            .limit(ROWS_AT_ONCE + 1)
        )
    ).all()
    if len(left) > ROWS_AT_ONCE or any(has_open for _, has_open in left):
        return None
    await session.execute(delete(Function).where(_is_in(Function.id, functions)))
    return len(functions) == _FUNCTIONS_AT_ONCE


async def delete_versions(session: AsyncSession, project_id: ProjectId) -> bool:
    """Delete some versions of a project that has no functions; returns whether some are left."""
    some = select(Version.id).where(Version.project_id == project_id).limit(ROWS_AT_ONCE)
    deleted = await _count(session, delete(Version).where(Version.id.in_(some)))
    return deleted == ROWS_AT_ONCE


async def delete_project(session: AsyncSession, project_id: ProjectId) -> None:
    """Delete a project of which nothing else is left. Its name is free then."""
    await session.execute(
        delete(Project).where(Project.id == project_id, Project.deletion_requested_at.is_not(None))
    )


async def _count(session: AsyncSession, statement: Delete) -> int:
    deleted = statement.returning(literal(1)).execution_options(synchronize_session=False)
    return len((await session.scalars(deleted)).all())


def _is_in(
    column: InstrumentedAttribute[str] | InstrumentedAttribute[str | None], ids: Sequence[str]
) -> ColumnElement[bool]:
    # One parameter, however many ids there are: a statement may have 65,535.
    return column == any_(literal(list(ids), ARRAY(Text)))

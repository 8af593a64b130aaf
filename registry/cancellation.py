"""Cancelling: an invocation with everything below it, or all of a project."""

from collections.abc import Sequence

from sqlalchemy import exists, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from core.clock import utc_now
from core.errors import InvocationIsAlreadyTerminatedError
from core.ids import InvocationId, ProjectId
from core.lifecycle import InvocationStatus, Phase, QueueReason, WorkerStatus
from registry.changes import announcement
from registry.tables import Execution, Function, Invocation, Project, Version


async def request_cancellation(
    session: AsyncSession, invocation_id: InvocationId
) -> list[InvocationId]:
    """Record the wish to cancel an invocation and its running descendants.

    Repeating it keeps the first time. Descendants of a descendant that has already ended are
    reached too.

    Returns:
        The invocations whose workflows are to be cancelled, the given one first. Also those that
        were asked before: asking Temporal again is harmless and mends a lost first time.

    Raises:
        InvocationIsAlreadyTerminatedError: nothing is left to cancel; nothing was changed.
    """
    status = await session.scalar(
        select(Invocation.status).where(Invocation.id == invocation_id).with_for_update()
    )
    if status == InvocationStatus.TERMINATED:
        raise InvocationIsAlreadyTerminatedError
    tree = select(Invocation.id).where(Invocation.id == invocation_id).cte(recursive=True)
    tree = tree.union(select(Invocation.id).join(tree, Invocation.parent_id == tree.c.id))
    running = await session.scalars(
        select(Invocation.id)
        .where(Invocation.id.in_(select(tree.c.id)), Invocation.status == InvocationStatus.RUNNING)
        .order_by(Invocation.id)
        .with_for_update()
    )
    return await _cancel(session, running.all())


async def request_project_deletion(
    session: AsyncSession, project_id: ProjectId
) -> list[InvocationId]:
    """Record the wish to delete a project, and to cancel all that runs in it.

    Repeating it keeps the first time.

    Returns:
        The invocations whose workflows are to be cancelled.
    """
    now = utc_now()
    await session.execute(
        update(Project)
        .where(Project.id == project_id, Project.deletion_requested_at.is_(None))
        .values(deletion_requested_at=now)
    )
    running = await session.scalars(
        select(Invocation.id)
        .join(Function, Function.id == Invocation.function_id)
        .join(Version, Version.id == Function.version_id)
        .where(Version.project_id == project_id, Invocation.status == InvocationStatus.RUNNING)
        .order_by(Invocation.id)
        .with_for_update(of=Invocation)
    )
    return await _cancel(session, running.all())


async def _cancel(session: AsyncSession, invocation_ids: Sequence[str]) -> list[InvocationId]:
    now = utc_now()
    has_open_execution = exists().where(
        Execution.invocation_id == Invocation.id,
        Execution.worker_status != WorkerStatus.TERMINATED,
    )
    new_request = (
        Invocation.id.in_(invocation_ids),
        Invocation.cancellation_requested_at.is_(None),
    )
    await session.execute(
        update(Invocation)
        .where(*new_request, has_open_execution)
        .values(phase=Phase.CANCELLING, phase_detail="cancellation was requested")
    )
    # In back-off between two attempts no workflow code runs, and Temporal ends the workflow
    # without asking it. So the end is recorded here.
    await session.execute(
        update(Invocation)
        .where(*new_request, Invocation.queue_reason == QueueReason.BACKOFF)
        .values(
            status=InvocationStatus.TERMINATED,
            phase=Phase.CANCELLED,
            phase_detail="cancellation was requested between two attempts",
            queue_reason=None,
            terminated_at=now,
        )
        .returning(announcement(Invocation.id))
    )
    await session.execute(
        update(Invocation).where(*new_request).values(cancellation_requested_at=now, updated_at=now)
    )
    return [InvocationId(invocation_id) for invocation_id in invocation_ids]

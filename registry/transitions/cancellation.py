"""Cancelling an invocation with everything below it."""

from collections.abc import Sequence

from sqlalchemy import any_, func, literal, select, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import Text

from core.clock import utc_now
from core.errors import InvocationDoesNotExistError, InvocationIsAlreadyTerminatedError
from core.ids import InvocationId
from core.states import InvocationStatus, Phase, QueueReason
from registry.database.tables import Invocation
from registry.explanations import BETWEEN_ATTEMPTS, CANCELLATION_REQUESTED
from registry.queries.executions import has_open_execution
from registry.transitions.ending import end_invocations
from registry.transitions.phases import change_phase


async def request_cancellation(
    session: AsyncSession, invocation_id: InvocationId, *, reason: str | None = None
) -> list[InvocationId]:
    """Record the wish to cancel an invocation and its running descendants.

    Repeating it keeps the first time, and the first reason. Descendants of a descendant that has
    already ended are reached too.

    Args:
        session: the transaction.
        invocation_id: the invocation.
        reason: what its `phase_detail` is to say instead of `CANCELLATION_REQUESTED`. Its
            descendants are cancelled because of it, and not for that reason.

    Returns:
        The invocations whose workflows are to be cancelled, the given one first. Also those that
        were asked before: asking Temporal again is harmless and mends a lost first time.

    Raises:
        InvocationIsAlreadyTerminatedError: nothing is left to cancel; nothing was changed.
        InvocationDoesNotExistError: it was deleted at this moment.
    """
    locked = await _lock_running(session, invocation_id)
    if invocation_id not in locked:
        status = await session.scalar(
            select(Invocation.status).where(Invocation.id == invocation_id)
        )
        if status is None:
            raise InvocationDoesNotExistError
        raise InvocationIsAlreadyTerminatedError
    # A child that was committed after the first look, and before the lock on its parent, is seen
    # at the next one. Below what is locked no child can be created.
    while len(again := await _lock_running(session, invocation_id)) > len(locked):
        locked = again
    if reason is not None:
        await session.execute(
            update(Invocation)
            .where(Invocation.id == invocation_id, Invocation.cancellation_requested_at.is_(None))
            .values(cancellation_reason=reason)
        )
    await _cancel(session, locked)
    return [invocation_id, *(found for found in locked if found != invocation_id)]


async def _lock_running(session: AsyncSession, root: InvocationId) -> list[InvocationId]:
    """Lock what runs of an invocation and its descendants, and name it, oldest first."""
    tree = select(Invocation.id).where(Invocation.id == root).cte(recursive=True)
    tree = tree.union(select(Invocation.id).join(tree, Invocation.parent_id == tree.c.id))
    running = await session.scalars(
        select(Invocation.id)
        .where(Invocation.id.in_(select(tree.c.id)), Invocation.status == InvocationStatus.RUNNING)
        .order_by(Invocation.id)
        .with_for_update()
    )
    return [InvocationId(found) for found in running]


async def _cancel(session: AsyncSession, invocation_ids: Sequence[InvocationId]) -> None:
    now = utc_now()
    why = func.coalesce(Invocation.cancellation_reason, CANCELLATION_REQUESTED)
    new_request = (
        # One parameter, however many ids there are: a statement may have 65,535.
        Invocation.id == any_(literal(list(invocation_ids), ARRAY(Text))),
        Invocation.cancellation_requested_at.is_(None),
    )
    await session.execute(
        change_phase(*new_request, has_open_execution(), phase=Phase.CANCELLING, detail=why)
    )
    # In back-off between two attempts no workflow code runs, and Temporal ends the workflow
    # without asking it. So the end is recorded here.
    await session.execute(
        end_invocations(
            *new_request,
            Invocation.queue_reason == QueueReason.BACKOFF,
            phase=Phase.CANCELLED,
            detail=why + BETWEEN_ATTEMPTS,
            at=now,
        )
    )
    await session.execute(
        update(Invocation).where(*new_request).values(cancellation_requested_at=now, updated_at=now)
    )

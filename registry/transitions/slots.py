"""Concurrency slots of a function: who holds one, who waits, who is next.

A slot is an execution that is not TERMINATED. Every function here needs the function's row locked
(`lock_function`), which makes admissions and releases of one function follow one another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    and_,
    bindparam,
    exists,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from core.clock import utc_now
from core.ids import ExecutionId, FunctionId, InvocationId
from core.states import Phase, QueueReason, WorkerStatus
from registry.database.tables import Execution, Function, Invocation, Project, Version

NEWCOMER_SECONDS = 10
"""For so long an invocation that has not asked for a slot keeps its place before younger ones.

Workflows of invocations that were created together may ask in another order. A place is not kept
for ever, since an invocation whose workflow could not be started would block all others.
"""


def constant(member: StrEnum) -> ColumnElement[Any]:
    """Give a value as part of a statement's text, for conditions that partial indexes have.

    A prepared statement that had it as a parameter would be planned anew each time.
    """
    return literal_column(f"'{member.value}'")


@dataclass(frozen=True)
class FunctionContext:
    """A function with the names around it."""

    function: Function
    version: Version
    project: Project


# Built once: building a statement costs more than Postgres needs to answer it.
_CONTEXT = (
    select(Function, Version, Project)
    .join(Version, Version.id == Function.version_id)
    .join(Project, Project.id == Version.project_id)
    # Strong enough against another of its kind, and no obstacle to new invocations, whose foreign
    # key needs the row to stay.
    .with_for_update(of=Function, key_share=True)
)
_CONTEXT_OF_FUNCTION = _CONTEXT.where(Function.id == bindparam("function_id"))
_CONTEXT_OF_INVOCATION = _CONTEXT.join(Invocation, Invocation.function_id == Function.id).where(
    Invocation.id == bindparam("invocation_id")
)
_CONTEXT_OF_EXECUTION = _CONTEXT.join(Execution, Execution.function_id == Function.id).where(
    Execution.id == bindparam("execution_id")
)
_SLOTS_IN_USE = (
    select(func.count())
    .select_from(Execution)
    .where(
        Execution.function_id == bindparam("function_id"),
        Execution.worker_status != constant(WorkerStatus.TERMINATED),
    )
    .scalar_subquery()
)
_WAITING = and_(
    Invocation.function_id == bindparam("function_id"), Invocation.phase == constant(Phase.QUEUED)
)
_IS_NEWCOMER = and_(
    Invocation.queue_reason == constant(QueueReason.NEW),
    Invocation.created_at > bindparam("newcomers_since"),
)
_IS_OLDER = Invocation.id < bindparam("invocation_id")
_IS_WAITER = Invocation.queue_reason == constant(QueueReason.FUNCTION_LIMIT)
_IS_CALLED = Invocation.queue_reason == constant(QueueReason.CALLED)
MAX_COUNTED = 1000
"""Who waits is counted up to here, beyond any limit: each of ten thousand that wait asks."""
_WANTS_SLOT = or_(_IS_WAITER, _IS_CALLED, _IS_NEWCOMER)
_AHEAD = (
    select(_IS_NEWCOMER.label("is_newcomer"))
    .where(_WAITING, _IS_OLDER, _WANTS_SLOT)
    .order_by(Invocation.id)
    .limit(MAX_COUNTED)
    .subquery()
)
_QUEUE = (
    select(
        _SLOTS_IN_USE.label("in_use"),
        func.count().label("ahead"),
        func.count().filter(_AHEAD.c.is_newcomer).label("newcomers_ahead"),
        exists().where(_WAITING, or_(_IS_WAITER, _IS_CALLED)).label("has_waiters"),
    )
    .select_from(_AHEAD)
    .subquery("queue")
)
_ASKING = (
    select(Invocation, _QUEUE, Execution)
    .select_from(Invocation)
    .join(_QUEUE, true())
    .outerjoin(Execution, Execution.invocation_id == Invocation.id)
    .where(Invocation.id == bindparam("invocation_id"))
    .order_by(Execution.attempt)
    .options(
        # Users' data, which may be large, and is not needed for any decision.
        defer(Invocation.input, raiseload=True),
        defer(Execution.output, raiseload=True),
        defer(Execution.progress, raiseload=True),
    )
    .with_for_update(of=Invocation)
)
_CALLED = select(Invocation.id, Invocation.called_by, true().label("is_called")).where(
    _WAITING, _IS_CALLED
)
_FIRST_WAITER = (
    select(Invocation.id, null(), false())
    .where(_WAITING, _IS_WAITER)
    .order_by(Invocation.id)
    .limit(1)
)
_CALLED_AND_NEXT: CompoundSelect[*tuple[Any, ...]] = union_all(_CALLED, _FIRST_WAITER)


@dataclass(frozen=True)
class Queue:
    """How full a function is, and who waits, as one invocation that asks for a slot sees it."""

    in_use: int
    """Executions that are not TERMINATED."""
    ahead: int
    """Older invocations that want a slot, as far as they were counted: the oldest 1000."""
    newcomers_ahead: int
    """Those of them that have yet to ask."""
    has_waiters: bool
    """Whether any waits or has been called, the one that asks included."""


async def lock_function(session: AsyncSession, function_id: FunctionId) -> FunctionContext | None:
    """Lock a function's row until the end of the transaction.

    Lock order everywhere: function, then execution, then invocation.
    """
    rows = await session.execute(_CONTEXT_OF_FUNCTION, {"function_id": function_id})
    row = rows.one_or_none()
    return None if row is None else FunctionContext(*row)


async def lock_function_of(
    session: AsyncSession, invocation_id: InvocationId
) -> FunctionContext | None:
    """Lock the row of an invocation's function until the end of the transaction."""
    rows = await session.execute(_CONTEXT_OF_INVOCATION, {"invocation_id": invocation_id})
    row = rows.one_or_none()
    return None if row is None else FunctionContext(*row)


async def lock_function_of_execution(
    session: AsyncSession, execution_id: ExecutionId
) -> FunctionContext | None:
    """Lock the row of an execution's function until the end of the transaction."""
    rows = await session.execute(_CONTEXT_OF_EXECUTION, {"execution_id": execution_id})
    row = rows.one_or_none()
    return None if row is None else FunctionContext(*row)


@dataclass(frozen=True)
class Asking:
    """An invocation that asks for a slot, locked, with what decides about it."""

    invocation: Invocation
    executions: Sequence[Execution]
    """Oldest first."""
    queue: Queue


async def look_at_queue(
    session: AsyncSession, invocation_id: InvocationId, *, function: Function
) -> Asking | None:
    """Lock an invocation that asks for a slot, and count slots and waiters; None if it is gone.

    One statement, after the one that has locked the function: so it sees what those before have
    done.
    """
    parameters = {
        "function_id": function.id,
        "invocation_id": invocation_id,
        "newcomers_since": utc_now() - timedelta(seconds=NEWCOMER_SECONDS),
    }
    rows = (await session.execute(_ASKING, parameters)).all()
    if not rows:
        return None
    return Asking(
        invocation=rows[0][0],
        queue=Queue(*rows[0][1:5]),
        executions=[row[5] for row in rows if row[5] is not None],
    )


async def call_next(
    session: AsyncSession, function: Function, *, caller: str
) -> list[InvocationId]:
    """Call the oldest waiters for the slots that are free and not yet promised to others.

    Args:
        session: the transaction.
        function: the function, locked.
        caller: id of what makes the transition. The same transition run again gives the same
            invocations again, in case they have not been woken.

    Returns:
        The invocations to wake. Each counts as CALLED until it has asked again.
    """
    of_function = {"function_id": function.id}
    rows = (await session.execute(_CALLED_AND_NEXT, of_function)).all()
    called = [(invocation_id, by) for invocation_id, by, is_called in rows if is_called]
    again = [InvocationId(invocation_id) for invocation_id, by in called if by == caller]
    if len(called) == len(rows):
        return again
    in_use = await session.scalar(select(_SLOTS_IN_USE), of_function) or 0
    free = function.max_concurrency - in_use - len(called)
    if free <= 0:
        return again
    first = (
        select(Invocation.id)
        .where(
            Invocation.function_id == function.id,
            Invocation.phase == Phase.QUEUED,
            Invocation.queue_reason == QueueReason.FUNCTION_LIMIT,
        )
        .order_by(Invocation.id)
        .limit(free)
        # One that is being cancelled at this moment needs no slot.
        .with_for_update(skip_locked=True)
    )
    woken = await session.scalars(
        update(Invocation)
        .where(Invocation.id.in_(first))
        .values(queue_reason=QueueReason.CALLED, called_by=caller, called_at=utc_now())
        .returning(Invocation.id)
    )
    return again + [InvocationId(invocation_id) for invocation_id in sorted(woken)]


async def set_aside(session: AsyncSession, invocation_ids: Sequence[str]) -> list[InvocationId]:
    """Let others pass called invocations whose workflows are gone; returns whom to wake instead.

    Ids of anything else are passed over.
    """
    wake: list[InvocationId] = []
    for invocation_id in invocation_ids:
        context = await lock_function_of(session, InvocationId(invocation_id))
        if context is None:
            continue
        await session.execute(
            update(Invocation)
            .where(Invocation.id == invocation_id, Invocation.queue_reason == QueueReason.CALLED)
            .values(
                queue_reason=QueueReason.WORKFLOW_LOST,
                phase_detail="its Temporal workflow is gone",
            )
        )
        wake += await call_next(session, context.function, caller=invocation_id)
    return wake

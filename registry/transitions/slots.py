"""Concurrency slots of a function: which executions hold one, which invocation gets the next.

An execution that is not TERMINATED holds a slot. A free slot is offered to the invocation that has
waited longest, which then asks for it (`transitions.executions.open_execution`). Every function
here needs the function's row locked (`lock_function`), which makes admissions and releases of one
function follow one another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    ScalarSelect,
    and_,
    bindparam,
    exists,
    false,
    func,
    null,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, defer

from core.clock import utc_now
from core.ids import ExecutionId, FunctionId, InvocationId
from core.states import Phase, QueueReason, WorkerStatus
from registry.database.tables import Execution, Function, Invocation, constant
from registry.explanations import WORKFLOW_GONE
from registry.queries.paths import SELECT_FUNCTION_CONTEXT, FunctionContext

NEWCOMER_SECONDS = 10
"""For so long an invocation that has not asked for a slot keeps its place before younger ones.

Workflows of invocations that were created together may ask in another order. A place is not kept
for ever, since an invocation whose workflow could not be started would block all others.
"""


# Built once: building a statement costs more than Postgres needs to answer it.
_CONTEXT = SELECT_FUNCTION_CONTEXT.with_for_update(
    # Strong enough against another of its kind, and no obstacle to new invocations, whose foreign
    # key needs the row to stay.
    of=Function,
    key_share=True,
)
_IS_QUEUED = Invocation.phase == constant(Phase.QUEUED)
_IS_WAITER = Invocation.queue_reason == constant(QueueReason.FUNCTION_LIMIT)
_IS_OFFERED = Invocation.queue_reason == constant(QueueReason.OFFERED)
WAITS_FOR_SLOT: Final = and_(_IS_QUEUED, _IS_WAITER)
IS_OFFERED_SLOT: Final = and_(_IS_QUEUED, _IS_OFFERED)
_CONTEXT_OF_FUNCTION = _CONTEXT.where(Function.id == bindparam("function_id"))
_CONTEXT_OF_INVOCATION = _CONTEXT.join(Invocation, Invocation.function_id == Function.id).where(
    Invocation.id == bindparam("invocation_id")
)
_CONTEXT_OF_EXECUTION = _CONTEXT.join(Execution, Execution.function_id == Function.id).where(
    Execution.id == bindparam("execution_id")
)


def _slots_in_use(
    function_id: ColumnElement[str] | InstrumentedAttribute[str],
) -> ScalarSelect[int]:
    """Count the open executions of a function."""
    return (
        select(func.count())
        .select_from(Execution)
        .where(
            Execution.function_id == function_id,
            Execution.worker_status != constant(WorkerStatus.TERMINATED),
        )
        .correlate(Function)
        .scalar_subquery()
    )


def free_slots() -> ColumnElement[int]:
    """Give the slots that are neither in use nor offered, for a statement that selects functions.

    Less than 1 if there is none.
    """
    offered = (
        select(func.count())
        .select_from(Invocation)
        .where(Invocation.function_id == Function.id, IS_OFFERED_SLOT)
        .correlate(Function)
        .scalar_subquery()
    )
    return Function.max_concurrency - _slots_in_use(Function.id) - offered


_FREE_SLOTS = select(free_slots()).where(Function.id == bindparam("function_id"))
_WAITING = and_(Invocation.function_id == bindparam("function_id"), _IS_QUEUED)
_IS_NEWCOMER = and_(
    Invocation.queue_reason == constant(QueueReason.NEW),
    Invocation.created_at > bindparam("newcomers_since"),
)
_IS_OLDER = Invocation.id < bindparam("invocation_id")
MAX_COUNTED = 1000
"""So many that wait are counted, beyond any limit: each of ten thousand that wait asks."""
_WANTS_SLOT = or_(_IS_WAITER, _IS_OFFERED, _IS_NEWCOMER)
_AHEAD = (
    select(_IS_NEWCOMER.label("is_newcomer"))
    .where(_WAITING, _IS_OLDER, _WANTS_SLOT)
    .order_by(Invocation.id)
    .limit(MAX_COUNTED)
    .subquery()
)
_QUEUE = (
    select(
        _slots_in_use(bindparam("function_id")).label("in_use"),
        func.count().label("ahead"),
        func.count().filter(_AHEAD.c.is_newcomer).label("newcomers_ahead"),
        exists().where(_WAITING, or_(_IS_WAITER, _IS_OFFERED)).label("has_waiters"),
    )
    .select_from(_AHEAD)
    .subquery("queue")
)
_APPLICANT = (
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
_OFFERED = select(Invocation.id, Invocation.offered_by, true().label("is_offered")).where(
    _WAITING, _IS_OFFERED
)
_FIRST_WAITER = (
    select(Invocation.id, null(), false())
    .where(_WAITING, _IS_WAITER)
    .order_by(Invocation.id)
    .limit(1)
)
_OFFERED_AND_NEXT: CompoundSelect[*tuple[Any, ...]] = union_all(_OFFERED, _FIRST_WAITER)


@dataclass(frozen=True)
class Queue:
    """How full a function is, and what waits, as one invocation that asks for a slot sees it."""

    in_use: int
    """Executions that are not TERMINATED."""
    ahead: int
    """Older invocations that want a slot, as far as they were counted: the oldest 1000."""
    newcomers_ahead: int
    """Those of them that have yet to ask."""
    has_waiters: bool
    """Whether any waits or is offered a slot, the one that asks included."""

    def is_full_for(self, function: Function) -> bool:
        """Say whether the invocation must wait: slots are in use, or older ones come first."""
        return self.ahead >= function.max_concurrency - self.in_use

    def is_kept_by_newcomers(self, function: Function) -> bool:
        """Say whether only invocations that have yet to ask keep a slot from it."""
        return self.ahead - self.newcomers_ahead < function.max_concurrency - self.in_use


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
class Applicant:
    """An invocation that asks for a slot, locked, with what decides about it."""

    invocation: Invocation
    executions: Sequence[Execution]
    """Oldest first."""
    queue: Queue


async def look_at_queue(
    session: AsyncSession, invocation_id: InvocationId, *, function: Function
) -> Applicant | None:
    """Lock an invocation that asks for a slot, and count slots and waiters; None if it is gone.

    One statement, after the one that has locked the function: so it sees what those before have
    done.
    """
    parameters = {
        "function_id": function.id,
        "invocation_id": invocation_id,
        "newcomers_since": utc_now() - timedelta(seconds=NEWCOMER_SECONDS),
    }
    rows = (await session.execute(_APPLICANT, parameters)).all()
    if not rows:
        return None
    return Applicant(
        invocation=rows[0][0],
        queue=Queue(*rows[0][1:5]),
        executions=[row[5] for row in rows if row[5] is not None],
    )


async def offer_slots(
    session: AsyncSession, function: Function, *, offered_by: str
) -> list[InvocationId]:
    """Offer the slots that are free, and not offered already, to what has waited longest.

    Args:
        session: the transaction.
        function: the function, locked.
        offered_by: id of what makes the transition. The same transition run again gives the same
            invocations again, in case they have not been woken.

    Returns:
        The invocations to wake. Each counts as OFFERED until it has asked again.
    """
    of_function = {"function_id": function.id}
    rows = (await session.execute(_OFFERED_AND_NEXT, of_function)).all()
    offered = [(invocation_id, by) for invocation_id, by, is_offered in rows if is_offered]
    again = [InvocationId(invocation_id) for invocation_id, by in offered if by == offered_by]
    if len(offered) == len(rows):
        return again
    free = await session.scalar(_FREE_SLOTS, of_function) or 0
    if free <= 0:
        return again
    first = (
        select(Invocation.id)
        .where(Invocation.function_id == function.id, WAITS_FOR_SLOT)
        .order_by(Invocation.id)
        .limit(free)
        # One that is being cancelled at this moment needs no slot.
        .with_for_update(skip_locked=True)
    )
    woken = await session.scalars(
        update(Invocation)
        .where(Invocation.id.in_(first))
        .values(queue_reason=QueueReason.OFFERED, offered_by=offered_by, offered_at=utc_now())
        .returning(Invocation.id)
    )
    return again + [InvocationId(invocation_id) for invocation_id in sorted(woken)]


async def set_aside(session: AsyncSession, invocation_ids: Sequence[str]) -> list[InvocationId]:
    """Let others pass invocations whose workflows are gone; returns what to wake instead.

    Only those that were offered a slot; ids of anything else are passed over.
    """
    wake: list[InvocationId] = []
    for invocation_id in invocation_ids:
        context = await lock_function_of(session, InvocationId(invocation_id))
        if context is None:
            continue
        await session.execute(
            update(Invocation)
            .where(Invocation.id == invocation_id, Invocation.queue_reason == QueueReason.OFFERED)
            .values(queue_reason=QueueReason.WORKFLOW_LOST, phase_detail=WORKFLOW_GONE)
        )
        wake += await offer_slots(session, context.function, offered_by=invocation_id)
    return wake

"""Preparing a version's functions: what is left to do, and what came of it."""

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from core.ids import FunctionId, InvocationId, VersionId
from core.states import Phase, PreparationStatus, QueueReason
from registry.database.tables import Function, Invocation, Version, pool_of_function
from registry.explanations import BEING_PREPARED, PREPARED
from registry.queries.paths import SELECT_FUNCTION_CONTEXT, FunctionContext
from registry.transitions.slots import lock_function, offer_slots


class UnpreparedFunction(NamedTuple):
    """A function whose preparation has not ended."""

    function_id: FunctionId
    name: str
    pool: str


async def list_unprepared(session: AsyncSession, version_id: VersionId) -> list[UnpreparedFunction]:
    """Give the functions of a version whose preparation has not ended, by name."""
    rows = await session.execute(
        select(Function.id, Function.name, pool_of_function())
        .join(Version, Version.id == Function.version_id)
        .where(
            Function.version_id == version_id,
            Function.preparation_status == PreparationStatus.PENDING,
        )
        .order_by(Function.name)
    )
    return [UnpreparedFunction(FunctionId(found), name, pool) for found, name, pool in rows]


async def get_function_context(
    session: AsyncSession, function_id: FunctionId
) -> FunctionContext | None:
    """Give a function with its version and project, or None if it was deleted."""
    row = (
        await session.execute(SELECT_FUNCTION_CONTEXT.where(Function.id == function_id))
    ).one_or_none()
    return None if row is None else FunctionContext(*row)


async def record_prepared(
    session: AsyncSession, function_id: FunctionId, *, details: Mapping[str, str] | None
) -> list[InvocationId]:
    """Mark a function READY; returns the waiting invocations to wake first."""
    values = {
        "preparation_status": PreparationStatus.READY,
        "prepared_details": None if details is None else dict(details),
        "preparation_error": None,
    }
    return await _record(session, function_id, values)


async def record_preparation_failure(
    session: AsyncSession, function_id: FunctionId, *, error: str
) -> list[InvocationId]:
    """Mark a function as impossible to prepare; returns the waiting invocations to wake first.

    Each of them finds the failure when it asks again, ends, and the next one is offered its slot.
    """
    values = {"preparation_status": PreparationStatus.FAILED, "preparation_error": error}
    return await _record(session, function_id, values)


async def record_preparation_trouble(
    session: AsyncSession, function_id: FunctionId, *, trouble: str
) -> None:
    """Show what is in the way of a function's preparation, also where invocations wait for it."""
    context = await lock_function(session, function_id)
    if context is None or context.function.preparation_status != PreparationStatus.PENDING:
        return
    context.function.preparation_error = trouble
    # Not updated_at: clients rely on the time of the last change of status.
    await session.execute(
        update(Invocation)
        .where(*_waits_for(function_id))
        .values(phase_detail=BEING_PREPARED, trouble=trouble)
    )


def _waits_for(function_id: FunctionId) -> tuple[ColumnElement[bool], ...]:
    return (
        Invocation.function_id == function_id,
        Invocation.phase == Phase.QUEUED,
        Invocation.queue_reason == QueueReason.FUNCTION_NOT_READY,
    )


async def _record(
    session: AsyncSession, function_id: FunctionId, values: Mapping[str, object]
) -> list[InvocationId]:
    context = await lock_function(session, function_id)
    if context is None:
        return []
    await session.execute(
        update(Function)
        .where(
            Function.id == function_id,
            Function.preparation_status == PreparationStatus.PENDING,
        )
        .values(**values)
    )
    await session.execute(
        update(Invocation)
        .where(*_waits_for(function_id))
        .values(queue_reason=QueueReason.FUNCTION_LIMIT, phase_detail=PREPARED, trouble=None)
    )
    return await offer_slots(session, context.function, offered_by=function_id)

"""Appending to an execution's log."""

from dataclasses import dataclass

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.ids import ExecutionId
from registry.database.tables import Execution, LogChunk


@dataclass(frozen=True)
class LogTail:
    """Where an execution's log ends."""

    next_line: int
    """Index that the next line gets."""
    next_offset: str
    """Where to go on reading the worker's output, in the provisioner's own words; "" = start."""
    complete: bool = False
    """Whether no line will follow."""


_TAIL = (
    select(
        func.coalesce(LogChunk.next_line, 0),
        func.coalesce(LogChunk.next_offset, ""),
        Execution.log_complete,
    )
    .select_from(Execution)
    .outerjoin(LogChunk, LogChunk.execution_id == Execution.id)
    .where(Execution.id == bindparam("execution_id"))
    .order_by(LogChunk.first_line.desc())
    .limit(1)
)


async def read_tail(session: AsyncSession, execution_id: ExecutionId) -> LogTail:
    """Find where to go on copying."""
    row = (await session.execute(_TAIL, {"execution_id": execution_id})).one_or_none()
    return LogTail(0, "") if row is None else LogTail(*row)


async def append_lines(
    session: AsyncSession,
    execution_id: ExecutionId,
    *,
    tail: LogTail,
    lines: list[str],
    next_offset: str,
    complete: bool = False,
) -> LogTail:
    """Add lines after `tail`; with `complete` also note that they are the last.

    Returns:
        The new tail. If another copier was faster (an activity that was believed dead), nothing is
        added and the tail it made is returned: go on from there.
    """
    # Without lines there is no row to keep; after a crash the reader passes over them once more.
    if lines:
        added = await session.scalar(
            insert(LogChunk)
            .values(
                execution_id=execution_id,
                first_line=tail.next_line,
                next_line=tail.next_line + len(lines),
                lines=lines,
                next_offset=next_offset,
            )
            .on_conflict_do_nothing()
            .returning(LogChunk.first_line)
        )
        if added is None:
            return await read_tail(session, execution_id)
    if complete:
        # Not updated_at: clients rely on the time of the last change of status.
        await session.execute(
            update(Execution)
            .where(Execution.id == execution_id, Execution.log_complete.is_(False))
            .values(log_complete=True)
        )
    return LogTail(tail.next_line + len(lines), next_offset, complete)

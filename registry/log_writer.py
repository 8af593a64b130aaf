"""Appending to an execution's log."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.ids import ExecutionId
from registry.tables import LogChunk


@dataclass(frozen=True)
class LogTail:
    """Where an execution's log ends."""

    next_line: int
    """Index that the next line gets."""
    next_offset: str
    """Where to go on reading the worker's output, in the provisioner's own words; "" = start."""


async def read_tail(session: AsyncSession, execution_id: ExecutionId) -> LogTail:
    """Find where to go on copying."""
    row = (
        await session.execute(
            select(LogChunk.next_line, LogChunk.next_offset)
            .where(LogChunk.execution_id == execution_id)
            .order_by(LogChunk.first_line.desc())
            .limit(1)
        )
    ).one_or_none()
    return LogTail(0, "") if row is None else LogTail(*row)


async def append_lines(
    session: AsyncSession,
    execution_id: ExecutionId,
    *,
    tail: LogTail,
    lines: list[str],
    next_offset: str,
) -> LogTail:
    """Add lines after `tail`.

    Returns:
        The new tail. If another copier was faster (an activity that was believed dead), nothing is
        added and the tail it made is returned: go on from there.
    """
    new = LogTail(tail.next_line + len(lines), next_offset)
    if not lines:
        # Nothing to keep; after a crash the reader passes over it once more.
        return new
    added = await session.scalar(
        insert(LogChunk)
        .values(
            execution_id=execution_id,
            first_line=tail.next_line,
            next_line=new.next_line,
            lines=lines,
            next_offset=next_offset,
        )
        .on_conflict_do_nothing()
        .returning(LogChunk.first_line)
    )
    return new if added is not None else await read_tail(session, execution_id)

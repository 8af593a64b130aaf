"""An execution's log: the watch adds lines to it, and users read pages of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import bindparam, func, or_, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.ids import ExecutionId
from core.states import WorkerStatus
from registry.database.tables import Execution, LogChunk

_MAX_OFFSET: Final = 2**31 - 1001
"""Behind the last line of any log, and still an integer of Postgres when a page is added to it."""


@dataclass(frozen=True, kw_only=True)
class LogPage:
    """Some consecutive lines."""

    lines: Sequence[str]
    next_offset: int | None
    """Index of the line after these; None if there is nothing, and never will be, after them."""


async def read_log(
    session: AsyncSession, execution: Execution, *, offset: int, max_lines: int
) -> LogPage:
    """Give lines of an execution's log, from the line with index `offset`.

    An execution without a worker has no log (yet): no lines and no offset. `execution` must have
    been read before: if it was TERMINATED or its log complete then, this sees all lines.
    """
    offset = min(offset, _MAX_OFFSET)
    lines = await _read_lines(session, execution.id, offset=offset, max_lines=max_lines + 1)
    page = lines[:max_lines]
    has_more = len(lines) > max_lines
    complete = execution.log_complete or execution.worker_status == WorkerStatus.TERMINATED
    without_worker = execution.worker is None and execution.worker_details is None
    if not has_more and (complete or (without_worker and not page)):
        return LogPage(lines=page, next_offset=None)
    return LogPage(lines=page, next_offset=offset + len(page))


async def find_log_place(
    session: AsyncSession,
    execution: Execution,
    *,
    since: datetime | None = None,
    tail: int | None = None,
) -> int:
    """Give the index of the line at which to begin to read.

    Both are answered from the end of the primary key's range: `tail` looks at one chunk, `since` at
    those that are to be read and one more.

    Args:
        session: the transaction.
        execution: whose log it is.
        since: leave out what was certainly written before this. Chunks have the time at which they
            were copied, so some lines before it may be among those that are given.
        tail: so many lines before the present end, or all if there are fewer.
    """
    newest_first = (
        select(LogChunk.next_line)
        .where(LogChunk.execution_id == execution.id)
        .order_by(LogChunk.first_line.desc())
        .limit(1)
    )
    place = 0
    if since is not None:
        # What has no time is of an older server.
        before = or_(LogChunk.copied_at < since, LogChunk.copied_at.is_(None))
        place = await session.scalar(newest_first.where(before)) or 0
    if tail is not None:
        end = await session.scalar(newest_first) or 0
        place = max(place, end - tail)
    return place


async def _read_lines(
    session: AsyncSession, execution_id: str, *, offset: int, max_lines: int
) -> Sequence[str]:
    mine = LogChunk.execution_id == execution_id
    # Chunks follow one another without gaps, so the page begins in the last one that does not
    # begin after it, and the primary key finds that chunk.
    first_chunk = (
        select(func.max(LogChunk.first_line)).where(mine, LogChunk.first_line <= offset)
    ).scalar_subquery()
    line = (
        func.unnest(LogChunk.lines).table_valued("text", with_ordinality="number").render_derived()
    )
    index = LogChunk.first_line + line.c.number - 1
    rows = await session.scalars(
        select(line.c.text)
        .select_from(LogChunk)
        .join(line, true())
        .where(
            mine,
            LogChunk.first_line >= func.coalesce(first_chunk, 0),
            LogChunk.first_line < offset + max_lines,
            index >= offset,
        )
        .order_by(index)
        .limit(max_lines)
    )
    return rows.all()


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

"""What the worker of an execution reports: its start, its output and progress, its outcome."""

from datetime import datetime
from enum import Enum, auto
from functools import cache
from typing import Any, TypedDict

from sqlalchemy import ColumnElement, Executable, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from core.clock import utc_now
from core.errors import (
    ExecutionHasAlreadyFinishedError,
    ExecutionHasAlreadyStartedError,
    ExecutionHasNotStartedError,
    ExecutionIsAlreadyTerminatedError,
)
from core.states import Outcome, Phase, WorkerStatus
from registry.changes import announcement
from registry.database.tables import Execution, Invocation, table_of
from registry.queries.executions import ExecutionDetails, get_execution
from registry.queries.paths import ExecutionPath
from registry.transitions.phases import change_phase


class _Report(TypedDict, total=False):
    """The columns that a worker's report sets."""

    started_at: datetime
    finished_at: datetime
    outcome: Outcome
    output: str
    error_message: str
    progress: dict[str, Any]


async def start_execution(session: AsyncSession, path: ExecutionPath) -> ExecutionDetails:
    """Record a worker's report that it has started.

    Raises:
        ExecutionHasAlreadyStartedError: it reported that before; the first time is kept.
        ExecutionIsAlreadyTerminatedError: the worker is gone.
        Also everything that `get_execution` raises.
    """
    details = await get_execution(session, path)
    if not await _update(session, details, {"started_at": utc_now()}, _Kind.START):
        current = (await get_execution(session, path)).execution
        if current.started_at is not None:
            raise ExecutionHasAlreadyStartedError
        raise ExecutionIsAlreadyTerminatedError
    return details


async def update_execution(
    session: AsyncSession, path: ExecutionPath, *, latest_output: str
) -> ExecutionDetails:
    """Record a worker's report of its output so far, while it runs.

    Raises:
        ExecutionHasNotStartedError: it has not reported its start.
        ExecutionHasAlreadyFinishedError: it has reported its outcome.
        ExecutionIsAlreadyTerminatedError: the worker is gone.
        Also everything that `get_execution` raises.
    """
    return await _record(session, path, {"output": latest_output}, _Kind.UPDATE)


async def report_progress(
    session: AsyncSession, path: ExecutionPath, *, progress: dict[str, Any]
) -> ExecutionDetails:
    """Record a worker's report of its progress, while it runs.

    Raises:
        As `update_execution`.
    """
    return await _record(session, path, {"progress": progress}, _Kind.UPDATE)


async def finish_execution(
    session: AsyncSession,
    path: ExecutionPath,
    *,
    outcome: Outcome,
    final_output: str | None,
    error_message: str | None,
) -> ExecutionDetails:
    """Record a worker's report of its outcome. None as the output keeps the last one.

    Raises:
        ExecutionHasNotStartedError: it has not reported its start.
        ExecutionHasAlreadyFinishedError: it reported one before; the first report is kept.
        ExecutionIsAlreadyTerminatedError: the worker is gone.
        Also everything that `get_execution` raises.
    """
    report: _Report = {"outcome": outcome, "finished_at": utc_now()}
    if final_output is not None:
        report["output"] = final_output
    if error_message is not None:
        report["error_message"] = error_message
    return await _record(session, path, report, _Kind.FINISH)


async def _record(
    session: AsyncSession, path: ExecutionPath, report: _Report, kind: "_Kind"
) -> ExecutionDetails:
    details = await get_execution(session, path)
    if not await _update(session, details, report, kind):
        current = (await get_execution(session, path)).execution
        if current.started_at is None:
            raise ExecutionHasNotStartedError
        if current.finished_at is not None:
            raise ExecutionHasAlreadyFinishedError
        raise ExecutionIsAlreadyTerminatedError
    return details


class _Kind(Enum):
    """What a worker reports."""

    START = auto()
    UPDATE = auto()
    FINISH = auto()


async def _update(
    session: AsyncSession, details: ExecutionDetails, report: _Report, kind: _Kind
) -> bool:
    """Change an execution that is open, and the row in `details` with it; False if it may not."""
    values = {"updated_at": utc_now(), **report}
    statement = _update_statement(kind, tuple(sorted(values)))
    parameters = {f"new_{column}": value for column, value in values.items()}
    parameters["of_execution"] = details.execution.id
    return await session.scalar(statement, parameters) is not None


@cache
def _update_statement(kind: _Kind, columns: tuple[str, ...]) -> Executable:
    """Build the statement of a kind for these columns: once, since running it costs less.

    A start also moves the invocation from PROVISIONING to RUNNING; a finish is announced to the
    requests and activities that watch the execution.
    """
    table = table_of(Execution)
    only_if: ColumnElement[bool] = Execution.started_at.is_(None)
    if kind is not _Kind.START:
        only_if = Execution.started_at.is_not(None) & Execution.finished_at.is_(None)
    changed = (
        update(table)
        .where(
            Execution.id == bindparam("of_execution"),
            Execution.worker_status != WorkerStatus.TERMINATED,
            only_if,
        )
        .values({column: bindparam(f"new_{column}") for column in columns})
        .returning(*table.c)
        .cte("changed")
    )
    execution = aliased(Execution, changed)
    announced = [announcement(execution.id)] if kind is _Kind.FINISH else []
    selected = select(execution, *announced).execution_options(populate_existing=True)
    if kind is not _Kind.START:
        return selected
    # Not updated_at: clients rely on the time of the last change of status.
    runs = change_phase(
        Invocation.id == changed.c.invocation_id,
        Invocation.phase == Phase.PROVISIONING,
        phase=Phase.RUNNING,
        detail=Invocation.phase_detail,
    ).cte("runs")
    return selected.add_cte(runs)

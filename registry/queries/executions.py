"""Queries for executions: what workers report, and reading."""

from dataclasses import dataclass
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
from core.ids import ExecutionId, InvocationId
from core.states import Outcome, Phase, WorkerStatus
from registry.changes import announcement
from registry.database.tables import Execution, Function, Invocation, Project, Version, table_of
from registry.queries.paths import (
    AnySelect,
    ExecutionPath,
    ExecutionRow,
    FunctionContext,
    find_path,
    select_execution_path,
)


@dataclass(frozen=True, kw_only=True)
class ExecutionDetails:
    """An execution with everything that is served about it."""

    context: FunctionContext
    invocation: Invocation
    execution: Execution


class _Report(TypedDict, total=False):
    """The columns that a worker's report sets."""

    started_at: datetime
    finished_at: datetime
    outcome: Outcome
    output: str
    error_message: str
    progress: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ExecutionScope:
    """Where an execution belongs: what its worker's token is good for."""

    project_name: str
    function_name: str
    invocation_id: InvocationId
    is_open: bool
    """False once its worker is TERMINATED."""


async def get_execution(session: AsyncSession, path: ExecutionPath) -> ExecutionDetails:
    """Give an execution.

    Raises:
        ProjectDoesNotExistError: there is no such project.
        VersionDoesNotExistError: the project has no such version, or none at all.
        FunctionDoesNotExistError: the version has no such function.
        InvocationDoesNotExistError: the function has no such invocation.
        ExecutionDoesNotExistError: the invocation has no such execution.
    """
    statement = _select_current(newest_version=path.names_newest_version)
    row = await find_path(session, statement, path.parameters(), row=ExecutionRow)
    return ExecutionDetails(
        context=row.found_function(),
        invocation=row.found_invocation(),
        execution=row.found_execution(),
    )


@cache
def _select_current(*, newest_version: bool) -> AnySelect:
    """Select `ExecutionRow`, as it is now even if the session has loaded it before."""
    statement = select_execution_path(newest_version=newest_version)
    return statement.execution_options(populate_existing=True)


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
    runs = (
        update(table_of(Invocation))
        .where(Invocation.id == changed.c.invocation_id, Invocation.phase == Phase.PROVISIONING)
        .values(phase=Phase.RUNNING)
        .cte("runs")
    )
    return selected.add_cte(runs)


async def get_execution_scope(
    session: AsyncSession, execution_id: ExecutionId
) -> ExecutionScope | None:
    """Say where an execution belongs, or None if it does not exist (any more)."""
    row = (
        await session.execute(
            select(Project.name, Function.name, Execution.invocation_id, Execution.worker_status)
            .select_from(Execution)
            .join(Function, Function.id == Execution.function_id)
            .join(Version, Version.id == Function.version_id)
            .join(Project, Project.id == Version.project_id)
            .where(Execution.id == execution_id)
        )
    ).one_or_none()
    if row is None:
        return None
    project_name, function_name, invocation_id, worker_status = row
    return ExecutionScope(
        project_name=project_name,
        function_name=function_name,
        invocation_id=InvocationId(invocation_id),
        is_open=worker_status != WorkerStatus.TERMINATED,
    )

"""Queries for executions: what workers report, and reading."""

from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Executable, and_, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from core.clock import utc_now
from core.errors import (
    ExecutionDoesNotExistError,
    ExecutionHasAlreadyFinishedError,
    ExecutionHasAlreadyStartedError,
    ExecutionHasNotStartedError,
    ExecutionIsAlreadyTerminatedError,
)
from core.ids import ExecutionId, InvocationId, VersionId
from core.states import Outcome, Phase, WorkerStatus
from registry.changes import announcement
from registry.database.tables import Execution, Function, Invocation, Project, Version, table_of
from registry.queries.invocations import check_invocation_path, select_invocation_path
from registry.queries.paths import AnySelect, path_parameters
from registry.transitions.slots import FunctionContext


@dataclass(frozen=True, kw_only=True)
class ExecutionPath:
    """The names that lead to an execution."""

    project_name: str
    version_id: VersionId | None
    """None for the newest."""
    function_name: str
    invocation_id: InvocationId
    execution_id: ExecutionId


@dataclass(frozen=True, kw_only=True)
class ExecutionDetails:
    """An execution with everything that is served about it."""

    context: FunctionContext
    invocation: Invocation
    execution: Execution


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
    names = path_parameters(
        path.version_id,
        project_name=path.project_name,
        function_name=path.function_name,
        invocation_id=path.invocation_id,
        execution_id=path.execution_id,
    )
    query = _select_execution_path(newest_version=path.version_id is None)
    row = (await session.execute(query, names)).one_or_none()
    context, invocation = check_invocation_path(row)
    execution: Execution | None = None if row is None else row[4]
    if execution is None:
        raise ExecutionDoesNotExistError
    return ExecutionDetails(context=context, invocation=invocation, execution=execution)


@cache
def _select_execution_path(*, newest_version: bool) -> AnySelect:
    is_meant = and_(
        Execution.invocation_id == Invocation.id, Execution.id == bindparam("execution_id")
    )
    return (
        select_invocation_path(newest_version=newest_version)
        .add_columns(Execution)
        .outerjoin(Execution, is_meant)
        .execution_options(populate_existing=True)
    )


async def start_execution(session: AsyncSession, path: ExecutionPath) -> ExecutionDetails:
    """Record that the worker has started.

    Raises:
        ExecutionHasAlreadyStartedError: `start` was called before; the first time is kept.
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
    """Replace the output of an execution that runs.

    Raises:
        ExecutionHasNotStartedError: `start` was not called.
        ExecutionHasAlreadyFinishedError: `finish` was called.
        ExecutionIsAlreadyTerminatedError: the worker is gone.
        Also everything that `get_execution` raises.
    """
    return await _report(session, path, {"output": latest_output}, _Kind.UPDATE)


async def report_progress(
    session: AsyncSession, path: ExecutionPath, *, progress: dict[str, Any]
) -> ExecutionDetails:
    """Replace the progress of an execution that runs.

    Raises:
        As `update_execution`.
    """
    return await _report(session, path, {"progress": progress}, _Kind.UPDATE)


async def finish_execution(
    session: AsyncSession,
    path: ExecutionPath,
    *,
    outcome: Outcome,
    final_output: str | None,
    error_message: str | None,
) -> ExecutionDetails:
    """Record the outcome that the worker reports. None as the output keeps the last one.

    Raises:
        ExecutionHasNotStartedError: `start` was not called.
        ExecutionHasAlreadyFinishedError: `finish` was called before; the first report is kept.
        ExecutionIsAlreadyTerminatedError: the worker is gone.
        Also everything that `get_execution` raises.
    """
    values: dict[str, Any] = {"outcome": outcome, "finished_at": utc_now()}
    if final_output is not None:
        values["output"] = final_output
    if error_message is not None:
        values["error_message"] = error_message
    return await _report(session, path, values, _Kind.FINISH)


async def _report(
    session: AsyncSession,
    path: ExecutionPath,
    values: dict[str, Any],
    kind: "_Kind",
) -> ExecutionDetails:
    details = await get_execution(session, path)
    if not await _update(session, details, values, kind):
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
    session: AsyncSession, details: ExecutionDetails, values: dict[str, Any], kind: _Kind
) -> bool:
    """Change an execution that is open, and the row in `details` with it; False if it may not."""
    values = {"updated_at": utc_now(), **values}
    statement = _update_statement(kind, tuple(sorted(values)))
    parameters = {f"new_{column}": value for column, value in values.items()}
    parameters["of_execution"] = details.execution.id
    return await session.scalar(statement, parameters) is not None


@cache
def _update_statement(kind: _Kind, columns: tuple[str, ...]) -> Executable:
    """Build the statement of a kind that sets so many columns: once, since that costs more than it.

    A start also moves the invocation from PROVISIONING to RUNNING; a finish tells those who watch
    the execution.
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
    told = [announcement(execution.id)] if kind is _Kind.FINISH else []
    selected = select(execution, *told).execution_options(populate_existing=True)
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

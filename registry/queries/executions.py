"""Queries for executions."""

from dataclasses import dataclass
from functools import cache

from sqlalchemy import Exists, exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from core.ids import ExecutionId, InvocationId
from core.states import WorkerStatus
from registry.database.tables import Execution, Function, Invocation, Project, Version
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


def has_open_execution() -> Exists:
    """Say of an invocation, in a statement about invocations, whether it has an open execution."""
    return exists().where(
        Execution.invocation_id == Invocation.id,
        Execution.worker_status != WorkerStatus.TERMINATED,
    )


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

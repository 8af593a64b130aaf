"""What a path names: project, version, function, invocation, execution, and the rows it leads to.

The statements are built once and get their values as parameters: building one costs more than
Postgres needs to answer it.

Each statement adds a column to the one before, by an outer join, so that one query tells what is
missing. Each class of rows adds a field to the one before, in the same order: that is the only
place that knows the order of columns.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeAlias, TypeVar

from sqlalchemy import Select, and_, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from core.errors import (
    ExecutionDoesNotExistError,
    FunctionDoesNotExistError,
    InvocationDoesNotExistError,
    ProjectDoesNotExistError,
    VersionDoesNotExistError,
)
from core.ids import ExecutionId, InvocationId, VersionId
from core.retries import RetryPauses
from registry.database.tables import Execution, Function, Invocation, Project, Version

AnySelect: TypeAlias = Select[*tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class VersionPath:
    """The names that lead to a version."""

    project_name: str
    version_id: VersionId | None
    """None for the newest."""

    @property
    def names_newest_version(self) -> bool:
        """Whether it leads to the newest version: the argument of each `select_..._path`."""
        return self.version_id is None

    def parameters(self) -> dict[str, str]:
        """Give the parameters of the `select_..._path` statement for this path."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class FunctionPath(VersionPath):
    """The names that lead to a function."""

    function_name: str


@dataclass(frozen=True, kw_only=True)
class InvocationPath(FunctionPath):
    """The names that lead to an invocation."""

    invocation_id: InvocationId


@dataclass(frozen=True, kw_only=True)
class ExecutionPath(InvocationPath):
    """The names that lead to an execution."""

    execution_id: ExecutionId


@dataclass(frozen=True)
class FunctionContext:
    """A function with the names around it."""

    function: Function
    version: Version
    project: Project

    @property
    def pool(self) -> str:
        """Where the function's executions run; in SQL `pool_of_function`."""
        return self.function.pool or self.version.default_pool

    @property
    def retry_pauses(self) -> RetryPauses:
        """The pauses between the attempts of an invocation of the function."""
        spec = self.function.retry_spec
        return RetryPauses() if spec is None else RetryPauses(**spec)


SELECT_FUNCTION_CONTEXT: Final = (
    select(Function, Version, Project)
    .join(Version, Version.id == Function.version_id)
    .join(Project, Project.id == Version.project_id)
)
"""Select the parts of a `FunctionContext`."""


@dataclass(frozen=True)
class VersionRow:
    """A row of `select_version_path`; None is what is missing."""

    project: Project
    version: Version | None

    def found_version(self) -> Version:
        """Give the version.

        Raises:
            VersionDoesNotExistError: the project has no such version, or none at all.
        """
        if self.version is None:
            raise VersionDoesNotExistError
        return self.version


@dataclass(frozen=True)
class FunctionRow(VersionRow):
    """A row of `select_function_path`; None is what is missing."""

    function: Function | None

    def found_function(self) -> FunctionContext:
        """Give the function with the names around it.

        Raises:
            VersionDoesNotExistError: the project has no such version, or none at all.
            FunctionDoesNotExistError: the version has no such function.
        """
        version = self.found_version()
        if self.function is None:
            raise FunctionDoesNotExistError
        return FunctionContext(function=self.function, version=version, project=self.project)


@dataclass(frozen=True)
class InvocationRow(FunctionRow):
    """A row of `select_invocation_path`; None is what is missing."""

    invocation: Invocation | None

    def found_invocation(self) -> Invocation:
        """Give the invocation.

        Raises:
            VersionDoesNotExistError: the project has no such version, or none at all.
            FunctionDoesNotExistError: the version has no such function.
            InvocationDoesNotExistError: the function has no such invocation.
        """
        self.found_function()
        if self.invocation is None:
            raise InvocationDoesNotExistError
        return self.invocation


@dataclass(frozen=True)
class ExecutionRow(InvocationRow):
    """A row of `select_execution_path`; None is what is missing."""

    execution: Execution | None

    def found_execution(self) -> Execution:
        """Give the execution.

        Raises:
            VersionDoesNotExistError: the project has no such version, or none at all.
            FunctionDoesNotExistError: the version has no such function.
            InvocationDoesNotExistError: the function has no such invocation.
            ExecutionDoesNotExistError: the invocation has no such execution.
        """
        self.found_invocation()
        if self.execution is None:
            raise ExecutionDoesNotExistError
        return self.execution


AnyVersionRow = TypeVar("AnyVersionRow", bound=VersionRow)


@cache
def select_version_path(*, newest_version: bool) -> AnySelect:
    """Select `VersionRow`.

    Parameters of the statement: `project_name`, and `version_id` unless the newest is meant.
    """
    if newest_version:
        other = aliased(Version)
        newest = select(func.max(other.id)).where(other.project_id == Project.id)
        is_meant = Version.id == newest.correlate(Project).scalar_subquery()
    else:
        is_meant = Version.id == bindparam("version_id")
    return (
        select(Project, Version)
        .select_from(Project)
        .outerjoin(Version, and_(Version.project_id == Project.id, is_meant))
        .where(Project.name == bindparam("project_name"))
    )


@cache
def select_function_path(*, newest_version: bool) -> AnySelect:
    """Select `FunctionRow`; one more parameter: `function_name`."""
    name = bindparam("function_name", type_=Function.name.type)
    is_meant = and_(
        Function.version_id == Version.id,
        # The digest is what the index is on.
        func.md5(Function.name) == func.md5(name),
        Function.name == name,
    )
    path = select_version_path(newest_version=newest_version)
    return path.add_columns(Function).outerjoin(Function, is_meant)


@cache
def select_invocation_path(*, newest_version: bool) -> AnySelect:
    """Select `InvocationRow`; one more parameter: `invocation_id`."""
    is_meant = and_(
        Invocation.function_id == Function.id, Invocation.id == bindparam("invocation_id")
    )
    path = select_function_path(newest_version=newest_version)
    return path.add_columns(Invocation).outerjoin(Invocation, is_meant)


@cache
def select_execution_path(*, newest_version: bool) -> AnySelect:
    """Select `ExecutionRow`; one more parameter: `execution_id`."""
    is_meant = and_(
        Execution.invocation_id == Invocation.id, Execution.id == bindparam("execution_id")
    )
    path = select_invocation_path(newest_version=newest_version)
    return path.add_columns(Execution).outerjoin(Execution, is_meant)


@cache
def select_invocation_by_id() -> AnySelect:
    """Select `InvocationRow`, without None in it; the parameter: `invocation_id`."""
    return (
        select(Project, Version, Function, Invocation)
        .select_from(Invocation)
        .join(Function, Function.id == Invocation.function_id)
        .join(Version, Version.id == Function.version_id)
        .join(Project, Project.id == Version.project_id)
        .where(Invocation.id == bindparam("invocation_id"))
    )


async def find_path(
    session: AsyncSession,
    statement: AnySelect,
    parameters: dict[str, Any],
    *,
    row: type[AnyVersionRow],
) -> AnyVersionRow:
    """Run a statement that begins with the columns of a `select_..._path`.

    Args:
        session: the transaction.
        statement: what to run.
        parameters: of the statement.
        row: the class with a field for each of the statement's columns.

    Raises:
        ProjectDoesNotExistError: there is no such project.
    """
    found = (await session.execute(statement, parameters)).one_or_none()
    if found is None:
        raise ProjectDoesNotExistError
    return row(*found)


async def get_function(
    session: AsyncSession, path: FunctionPath, *, lock_project: bool = False
) -> FunctionContext:
    """Find a function.

    Args:
        session: the transaction.
        path: leads to the function.
        lock_project: hold off a request to delete the project until the transaction's end.

    Raises:
        ProjectDoesNotExistError: there is no such project.
        VersionDoesNotExistError: the project has no such version, or none at all.
        FunctionDoesNotExistError: the version has no such function.
    """
    statement = select_function_path(newest_version=path.names_newest_version)
    if lock_project:
        statement = statement.with_for_update(read=True, of=Project)
    row = await find_path(session, statement, path.parameters(), row=FunctionRow)
    return row.found_function()

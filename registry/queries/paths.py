"""Finding what a path names: project, version, function.

The statements are built once and get their values as parameters: building one costs more than
Postgres needs to answer it.
"""

from functools import cache
from typing import Any, TypeAlias

from sqlalchemy import Row, Select, and_, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from core.errors import (
    FunctionDoesNotExistError,
    ProjectDoesNotExistError,
    VersionDoesNotExistError,
)
from core.ids import VersionId
from registry.database.tables import Function, Project, Version
from registry.transitions.slots import FunctionContext

AnySelect: TypeAlias = Select[*tuple[Any, ...]]
AnyRow: TypeAlias = Row[*tuple[Any, ...]]


def path_parameters(version_id: VersionId | None, **names: str) -> dict[str, str]:
    """Give the parameters of a `select_..._path` statement: the names that lead there."""
    return names if version_id is None else {**names, "version_id": version_id}


@cache
def select_version_path(*, newest_version: bool) -> AnySelect:
    """Select (Project, Version) by outer joins, so that one query tells what is missing.

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
    """Select (Project, Version, Function) by outer joins; one more parameter: `function_name`."""
    name = bindparam("function_name", type_=Function.name.type)
    is_meant = and_(
        Function.version_id == Version.id,
        # The digest is what the index is on.
        func.md5(Function.name) == func.md5(name),
        Function.name == name,
    )
    path = select_version_path(newest_version=newest_version)
    return path.add_columns(Function).outerjoin(Function, is_meant)


def check_version_path(row: AnyRow | None) -> tuple[Project, Version]:
    """Read a row of `select_version_path`.

    Raises:
        ProjectDoesNotExistError: there is no such project.
        VersionDoesNotExistError: the project has no such version, or none at all.
    """
    if row is None:
        raise ProjectDoesNotExistError
    project, version = row[0], row[1]
    if version is None:
        raise VersionDoesNotExistError
    return project, version


def check_function_path(row: AnyRow | None) -> FunctionContext:
    """Read a row that begins with the columns of `select_function_path`.

    Raises:
        ProjectDoesNotExistError: there is no such project.
        VersionDoesNotExistError: the project has no such version, or none at all.
        FunctionDoesNotExistError: the version has no such function.
    """
    project, version = check_version_path(row)
    function = None if row is None else row[2]
    if function is None:
        raise FunctionDoesNotExistError
    return FunctionContext(function=function, version=version, project=project)


async def get_function(
    session: AsyncSession,
    *,
    project_name: str,
    version_id: VersionId | None,
    function_name: str,
    lock_project: bool = False,
) -> FunctionContext:
    """Find a function.

    Args:
        session: the transaction.
        project_name: the project.
        version_id: the version, or None for the newest.
        function_name: the function.
        lock_project: hold off a request to delete the project until the transaction's end.

    Raises:
        ProjectDoesNotExistError: there is no such project.
        VersionDoesNotExistError: the project has no such version, or none at all.
        FunctionDoesNotExistError: the version has no such function.
    """
    path = select_function_path(newest_version=version_id is None)
    if lock_project:
        path = path.with_for_update(read=True, of=Project)
    names = path_parameters(version_id, project_name=project_name, function_name=function_name)
    return check_function_path((await session.execute(path, names)).one_or_none())

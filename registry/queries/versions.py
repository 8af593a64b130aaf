"""Queries for versions."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from core.contract.functions import FunctionSpec
from core.errors import ProjectDoesNotExistError, ProjectIsBeingDeletedError
from core.ids import ProjectId, creation_time_of, new_function_id, new_version_id
from core.states import PreparationStatus
from registry.database.tables import Function, Project, Version
from registry.queries.bundles import use_in_version
from registry.queries.paths import VersionPath, VersionRow, find_path, select_version_path
from registry.queries.projects import get_project


@dataclass(frozen=True, kw_only=True)
class VersionDetails:
    """A version with its project and its functions, in the order of their registration."""

    project: Project
    version: Version
    functions: Sequence[Function]


@dataclass(frozen=True, kw_only=True)
class VersionList:
    """The versions of a project, newest first."""

    project: Project
    versions: Sequence[Version]


async def create_version(
    session: AsyncSession,
    *,
    project_name: str,
    default_docker_image: str,
    functions: Sequence[FunctionSpec],
    default_pool: str,
) -> VersionDetails:
    """Register a version with all its functions.

    Those that name no pool run in `default_pool`.

    Raises:
        ProjectDoesNotExistError: there is no such project.
        ProjectIsBeingDeletedError: its deletion was requested.
        BundleIsNotCompleteError: it runs a code bundle that is not there.
    """
    # Held off until the end of this transaction: a request to delete the project.
    project = await session.scalar(
        select(Project).where(Project.name == project_name).with_for_update(read=True)
    )
    if project is None:
        raise ProjectDoesNotExistError
    if project.deletion_requested_at is not None:
        raise ProjectIsBeingDeletedError
    version_id = new_version_id()
    version = Version(
        id=version_id,
        project_id=project.id,
        default_pool=default_pool,
        created_at=creation_time_of(version_id),
    )
    session.add(version)
    # No relationship is mapped, so the order of the two inserts is ours to say.
    await session.flush()
    rows = [
        _new_function(spec, version=version, default_docker_image=default_docker_image)
        for spec in functions
    ]
    session.add_all(rows)
    await session.flush()
    await use_in_version(
        session,
        version_id,
        project_id=ProjectId(project.id),
        images=images_of(default_docker_image, functions),
    )
    return VersionDetails(project=project, version=version, functions=rows)


def images_of(default_docker_image: str, functions: Sequence[FunctionSpec]) -> set[str]:
    """Give the distinct images of a version."""
    own = (spec.docker_image_override for spec in functions)
    return {default_docker_image, *(image for image in own if image is not None)}


def _new_function(spec: FunctionSpec, *, version: Version, default_docker_image: str) -> Function:
    function_id = new_function_id()
    override = spec.docker_image_override
    return Function(
        id=function_id,
        version_id=version.id,
        name=spec.function_name,
        docker_image=default_docker_image if override is None else override,
        virtual_cpus=spec.resource_spec.virtual_cpus,
        memory_gbs=spec.resource_spec.memory_gbs,
        max_concurrency=spec.resource_spec.max_concurrency,
        max_retries=spec.execution_spec.max_retries,
        timeout_seconds=spec.execution_spec.timeout_seconds,
        pool=version.default_pool if spec.pool is None else spec.pool,
        retry_spec=None if spec.retry_spec is None else spec.retry_spec.model_dump(),
        preparation_status=PreparationStatus.PENDING,
        prepared_details=None,
        preparation_error=None,
        created_at=creation_time_of(function_id),
    )


async def get_version(session: AsyncSession, path: VersionPath) -> VersionDetails:
    """Give a version with its functions.

    Raises:
        ProjectDoesNotExistError: there is no such project.
        VersionDoesNotExistError: the project has no such version, or none at all.
    """
    statement = select_version_path(newest_version=path.names_newest_version)
    row = await find_path(session, statement, path.parameters(), row=VersionRow)
    version = row.found_version()
    functions = await session.scalars(
        select(Function).where(Function.version_id == version.id).order_by(Function.id)
    )
    return VersionDetails(project=row.project, version=version, functions=functions.all())


async def list_versions(session: AsyncSession, *, project_name: str) -> VersionList:
    """Give the versions of a project, newest first.

    Raises:
        ProjectDoesNotExistError: there is no such project.
    """
    project = await get_project(session, name=project_name)
    versions = await session.scalars(
        select(Version).where(Version.project_id == project.id).order_by(Version.id.desc())
    )
    return VersionList(project=project, versions=versions.all())

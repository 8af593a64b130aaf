"""Routes for versions."""

from fastapi import APIRouter

from api.access.authentication import AuthenticatedRoute, PrincipalDep
from api.access.authorisation import RootOnly, authorise_reading_project
from api.requests.context import ContextDep
from api.requests.errors import responses
from api.requests.parameters import ProjectName, VersionPathDep
from api.views.versions import version_info, versions_list
from core.contract.versions import (
    VersionDefinition,
    VersionInfo,
    VersionsListForProject,
)
from core.errors import (
    BundleIsNotCompleteError,
    ProjectDoesNotExistError,
    ProjectIsBeingDeletedError,
    VersionDoesNotExistError,
)
from core.ids import VersionId
from registry.queries import bundles, versions

router = APIRouter(
    prefix="/projects/{project_name}/versions",
    tags=["versions"],
    route_class=AuthenticatedRoute,
)


@router.post(
    "",
    dependencies=[RootOnly],
    responses=responses(
        ProjectIsBeingDeletedError,
        BundleIsNotCompleteError,
        ProjectDoesNotExistError,
        with_body=True,
    ),
)
async def create_version(
    project_name: ProjectName, definition: VersionDefinition, context: ContextDep
) -> VersionInfo:
    """Register a version with all its functions, and start to prepare them.

    A code bundle that it runs must have been uploaded before.
    """
    await bundles.check_complete(
        context.registry,
        context.pieces,
        project_name=project_name,
        images=versions.images_of(definition.default_docker_image, definition.functions),
    )
    async with context.registry.transaction() as session:
        created = await versions.create_version(
            session,
            project_name=project_name,
            default_docker_image=definition.default_docker_image,
            functions=definition.functions,
            default_pool=context.default_pool,
        )
    if created.functions:
        await context.after_commit.send(
            context.dispatcher.start_preparation(
                VersionId(created.version.id),
                project_name=project_name,
                default_pool=created.version.default_pool,
            )
        )
    return version_info(created)


@router.get(
    "/{version_id}", responses=responses(ProjectDoesNotExistError, VersionDoesNotExistError)
)
async def get_version(
    path: VersionPathDep, context: ContextDep, principal: PrincipalDep
) -> VersionInfo:
    """Give a version with its functions."""
    async with context.registry.autocommit() as session:
        await authorise_reading_project(session, principal, project_name=path.project_name)
        return version_info(await versions.get_version(session, path))


@router.get("", dependencies=[RootOnly], responses=responses(ProjectDoesNotExistError))
async def list_versions(project_name: ProjectName, context: ContextDep) -> VersionsListForProject:
    """Give the versions of a project, newest first."""
    async with context.registry.autocommit() as session:
        return versions_list(await versions.list_versions(session, project_name=project_name))

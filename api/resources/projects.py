"""Routes for projects."""

from fastapi import APIRouter

from api.access.authentication import AuthenticatedRoute, PrincipalDep
from api.access.authorisation import RootOnly, authorise_reading_project
from api.requests.context import ContextDep
from api.requests.errors import responses
from api.requests.parameters import ProjectName
from api.views.projects import project_info
from core.contract.projects import MAX_PROJECT_NAME_LENGTH, ProjectInfo, ProjectsList
from core.errors import (
    ProjectAlreadyExistsError,
    ProjectDoesNotExistError,
    ProjectNameIsTooLongError,
)
from core.ids import ProjectId
from registry.queries import projects
from registry.transitions.deletion import request_project_deletion

router = APIRouter(prefix="/projects", tags=["projects"], route_class=AuthenticatedRoute)


@router.put(
    "/{project_name}",
    dependencies=[RootOnly],
    responses=responses(ProjectNameIsTooLongError, ProjectAlreadyExistsError),
)
async def create_project(project_name: ProjectName, context: ContextDep) -> ProjectInfo:
    """Register a project. A name may have up to 64 characters."""
    if len(project_name) > MAX_PROJECT_NAME_LENGTH:
        raise ProjectNameIsTooLongError
    async with context.registry.transaction() as session:
        return project_info(await projects.create_project(session, name=project_name))


@router.delete(
    "/{project_name}", dependencies=[RootOnly], responses=responses(ProjectDoesNotExistError)
)
async def delete_project(project_name: ProjectName, context: ContextDep) -> ProjectInfo:
    """Ask for a project to be deleted with everything in it.

    Returns at once. From then on whatever runs in it is cancelled; the project goes once nothing
    runs any more, and then its name is free. Asking again is harmless and keeps the first time.
    """
    async with context.registry.autocommit() as session:
        project = await request_project_deletion(session, name=project_name)
    await context.after_commit.send(
        context.dispatcher.start_deletion(ProjectId(project.id), project_name=project.name)
    )
    return project_info(project)


@router.get("/{project_name}", responses=responses(ProjectDoesNotExistError))
async def get_project(
    project_name: ProjectName, context: ContextDep, principal: PrincipalDep
) -> ProjectInfo:
    """Give a project."""
    async with context.registry.autocommit() as session:
        await authorise_reading_project(session, principal, project_name=project_name)
        return project_info(await projects.get_project(session, name=project_name))


@router.get("", dependencies=[RootOnly], responses=responses())
async def list_projects(context: ContextDep) -> ProjectsList:
    """Give all projects, newest first."""
    async with context.registry.autocommit() as session:
        found = await projects.list_projects(session)
        return ProjectsList(projects=[project_info(project) for project in found])

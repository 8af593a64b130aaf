"""Queries for projects."""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.errors import ProjectAlreadyExistsError, ProjectDoesNotExistError
from core.ids import ProjectId, creation_time_of, new_project_id
from registry.database.tables import Project


async def create_project(session: AsyncSession, *, name: str) -> Project:
    """Register a project.

    Raises:
        ProjectAlreadyExistsError: the name is taken, also by a project that is being deleted.
    """
    project_id = new_project_id()
    project: Project | None = await session.scalar(
        insert(Project)
        .values(id=project_id, name=name, created_at=creation_time_of(project_id))
        .on_conflict_do_nothing(index_elements=[Project.name])
        .returning(Project)
    )
    if project is None:
        raise ProjectAlreadyExistsError
    return project


async def get_project(session: AsyncSession, *, name: str) -> Project:
    """Give a project, as it is now even if the session has loaded it before.

    Raises:
        ProjectDoesNotExistError: no project has this name.
    """
    project = await session.scalar(
        select(Project).where(Project.name == name).execution_options(populate_existing=True)
    )
    if project is None:
        raise ProjectDoesNotExistError
    return project


async def is_deletion_requested(session: AsyncSession, project_id: ProjectId) -> bool | None:
    """Say whether a project is to be deleted; None if there is no such project (any more)."""
    return await session.scalar(
        select(Project.deletion_requested_at.is_not(None)).where(Project.id == project_id)
    )


async def list_projects(session: AsyncSession) -> list[Project]:
    """Give all projects, newest first."""
    return list(await session.scalars(select(Project).order_by(Project.id.desc())))

"""Projects, as the contract shows them."""

from api.views.shared import epoch, epoch_or_none
from core.contract.projects import ProjectInfo
from registry.database.tables import Project


def project_info(project: Project) -> ProjectInfo:
    """Show a project."""
    return ProjectInfo(
        project_name=project.name,
        creation_time=epoch(project.created_at),
        deletion_request_time=epoch_or_none(project.deletion_requested_at),
    )

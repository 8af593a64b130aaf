"""Projects."""

from typing import Final

from core.contract.base import ContractModel, EpochSeconds

MAX_PROJECT_NAME_LENGTH: Final = 64
"""Characters of a project's name; judged when the project is created."""


class ProjectInfo(ContractModel):
    """A project."""

    project_name: str
    creation_time: EpochSeconds
    """Epoch seconds."""
    deletion_request_time: EpochSeconds | None
    """Epoch seconds of the first request to delete it, or null. It goes once nothing runs in it."""


class ProjectsList(ContractModel):
    """All projects."""

    projects: list[ProjectInfo]
    """Newest first."""

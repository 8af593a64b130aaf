"""Names of workflow types, of their ids and signals, which all programs must agree on.

The id of an invocation's workflow is the invocation id itself.
"""

from typing import Final

from core.ids import ProjectId, VersionId

INVOCATION: Final = "Invocation"
VERSION_PREPARATION: Final = "VersionPreparation"
PROJECT_DELETION: Final = "ProjectDeletion"
SWEEP: Final = "Sweep"

WAKE_SIGNAL: Final = "wake"
"""Tells an invocation to ask again for a slot, and a project's deletion to look again."""


def preparation_workflow_id(version_id: VersionId) -> str:
    """Name the workflow that prepares a version."""
    return f"prepare-{version_id}"


def deletion_workflow_id(project_id: ProjectId) -> str:
    """Name the workflow that deletes a project."""
    return f"delete-{project_id}"


def sweep_schedule_id(task_queue: str, provisioner: str) -> str:
    """Name the schedule of the sweeps of one provisioner kind.

    Args:
        task_queue: prefix of the queues' names.
        provisioner: the kind.
    """
    return f"{task_queue}-sweep-{provisioner}"

"""Names of workflow types, signals and schedules, which all programs must agree on.

Ids of workflows are made in `core.ids`.
"""

from typing import Final

INVOCATION: Final = "Invocation"
VERSION_PREPARATION: Final = "VersionPreparation"
PROJECT_DELETION: Final = "ProjectDeletion"
SWEEP: Final = "Sweep"

WAKE_SIGNAL: Final = "wake"
"""Tells an invocation to ask again for a slot, and a project's deletion to look again."""


def sweep_schedule_id(task_queue: str, provisioner: str) -> str:
    """Name the schedule of the sweeps of one provisioner kind.

    Args:
        task_queue: prefix of the queues' names.
        provisioner: the kind.
    """
    return f"{task_queue}-sweep-{provisioner}"

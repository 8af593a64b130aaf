"""Identifiers: a prefix and 32 lower-case hex digits, ordered by the time of their creation.

Also the ids of workflows, which are made from them. The id of an invocation's workflow is the
invocation id itself.
"""

import re
from datetime import UTC, datetime
from typing import NewType
from uuid import UUID

import uuid_utils

ProjectId = NewType("ProjectId", str)
VersionId = NewType("VersionId", str)
FunctionId = NewType("FunctionId", str)
InvocationId = NewType("InvocationId", str)
ExecutionId = NewType("ExecutionId", str)

_SHAPE = re.compile(r"[a-z]{3}-([0-9a-f]{32})")


def _new(prefix: str) -> str:
    # uuid-utils counts up inside one millisecond, so ids made by one process never go backwards.
    return f"{prefix}-{uuid_utils.uuid7().hex}"


def new_project_id() -> ProjectId:
    """Make the internal id of a project, `prj-...` (a project is addressed by its name)."""
    return ProjectId(_new("prj"))


def new_version_id() -> VersionId:
    """Make the id of a version, `ver-...`."""
    return VersionId(_new("ver"))


def new_function_id() -> FunctionId:
    """Make the internal id of a function, `fun-...` (a function is addressed by its name)."""
    return FunctionId(_new("fun"))


def new_invocation_id() -> InvocationId:
    """Make the id of an invocation, `inv-...`; it is also its Temporal workflow id."""
    return InvocationId(_new("inv"))


def execution_id_of_run(run_id: str) -> ExecutionId:
    """Give the execution id of a Temporal run: `exe-` and the hex digits of the run id.

    Raises:
        ValueError: `run_id` is not a UUID.
    """
    return ExecutionId(f"exe-{UUID(run_id).hex}")


def run_id_of_execution(execution_id: str) -> str:
    """Give the Temporal run id that an execution id was made from.

    Raises:
        ValueError: `execution_id` does not have the shape `exe-` + 32 hex digits.
    """
    shape = _SHAPE.fullmatch(execution_id)
    if shape is None or not execution_id.startswith("exe-"):
        raise ValueError(f"{execution_id!r} is not an execution id")
    return str(UUID(shape.group(1)))


def preparation_workflow_id(version_id: VersionId) -> str:
    """Name the workflow that prepares a version."""
    return f"prepare-{version_id}"


def deletion_workflow_id(project_id: ProjectId) -> str:
    """Name the workflow that deletes a project."""
    return f"delete-{project_id}"


def creation_time_of(resource_id: str) -> datetime:
    """Read the creation time (UTC, to the millisecond) out of a time-ordered id.

    Rows take their `created_at` from their own id, so that ordering by id and ordering by time are
    the same order. An execution id is a Temporal run id and not time-ordered: do not ask for it.

    Raises:
        ValueError: `resource_id` is not prefix + 32 hex digits.
    """
    shape = _SHAPE.fullmatch(resource_id)
    if shape is None:
        raise ValueError(f"{resource_id!r} is not an id")
    milliseconds = int(shape.group(1)[:12], 16)
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)

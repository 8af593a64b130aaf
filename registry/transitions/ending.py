"""The one place where an invocation ends.

Each end is one UPDATE that `end_invocations` builds: what a worker's end decides
(`transitions.executions`), a cancel between two attempts (`transitions.cancellation`), the deletion
of a project (`transitions.deletion`). It tells those who wait for the invocation. Only ends are
announced: NOTIFY makes commits wait for each other.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, update
from sqlalchemy.sql.dml import ReturningUpdate

from core.states import InvocationStatus, Phase
from registry.changes import announcement
from registry.database.tables import Invocation, constant, table_of
from registry.transitions.phases import Value


def end_invocations(
    *which: ColumnElement[bool],
    phase: Phase | Value,
    detail: str | Value | None,
    at: datetime | Value,
    **also: object,
) -> ReturningUpdate[str, None]:
    """Build the UPDATE that ends RUNNING invocations and announces that; it gives their ids.

    What has ended stays as it is: its `updated_at` never moves again.

    Args:
        *which: the invocations.
        phase: the final phase.
        detail: why they have ended, for a person.
        at: the time of the end.
        **also: further columns that change with it.
    """
    return (
        update(table_of(Invocation))
        .where(*which, Invocation.status == constant(InvocationStatus.RUNNING))
        .values(
            status=InvocationStatus.TERMINATED,
            phase=phase,
            phase_detail=detail,
            queue_reason=None,
            trouble=None,
            terminated_at=at,
            updated_at=at,
            **also,
        )
        .returning(Invocation.id, announcement(Invocation.id))
    )

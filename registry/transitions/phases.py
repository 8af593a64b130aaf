"""The one place where the phase of an invocation that goes on changes; `ending` is for its end."""

from typing import Any

from sqlalchemy import ColumnElement, Update, update
from sqlalchemy.orm import InstrumentedAttribute

from core.states import InvocationStatus, Phase, QueueReason
from registry.database.tables import Invocation, constant, table_of

Value = ColumnElement[Any] | InstrumentedAttribute[Any]
"""A part of a statement in place of a plain value, for statements that are built once."""


def change_phase(
    *which: ColumnElement[bool],
    phase: Phase,
    detail: str | Value | None,
    queue_reason: QueueReason | Value | None = None,
    trouble: str | Value | None = None,
    **also: object,
) -> Update:
    """Build the UPDATE that brings RUNNING invocations into another phase.

    Clients rely on `updated_at` as the time of the last change of status. So it is among `also` or
    stays as it is: the contract says which of the changes move it.

    Args:
        *which: the invocations.
        phase: the new phase.
        detail: why they are there, for a person.
        queue_reason: why they wait; only with QUEUED.
        trouble: what is in the way there; that of the phase before is over.
        **also: further columns that change with the phase.
    """
    return (
        update(table_of(Invocation))
        .where(*which, Invocation.status == constant(InvocationStatus.RUNNING))
        .values(
            phase=phase, phase_detail=detail, queue_reason=queue_reason, trouble=trouble, **also
        )
    )

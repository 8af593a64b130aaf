"""What people read about an invocation: a function for each sentence.

These texts go into `phase_detail` and Temporal's history. Nothing of the user's data is in them: of
a user's error at most the name of its class. Code never takes one of them apart.
"""

import re
from datetime import datetime
from typing import Final

from core.states import Cause, InterruptReason, Outcome, Phase

CANCELLATION_REQUESTED: Final = "cancellation was requested"
ATTEMPTS_USED_UP: Final = "all attempts are used up"
BEING_PREPARED: Final = "the function is being prepared"
PREPARED: Final = "the function is prepared; waits for a concurrent execution to end"
PROJECT_BEING_DELETED: Final = "the project is being deleted"
WORKFLOW_GONE: Final = "its Temporal workflow is gone"
ENDED_BY_HAND: Final = "its workflow was ended by hand in Temporal"
INVOCATION_DELETED: Final = "the invocation was deleted"
EARLIER_EXECUTION_OPEN: Final = "an execution of an earlier run is still open"
BETWEEN_ATTEMPTS: Final = " between two attempts"
"""Comes after the reason of a cancel."""

_MAX_REASON = 300
_FINAL = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.TIMED_OUT})
_ERROR_CLASS = re.compile(r"[A-Za-z_][\w.]{0,99}(?=:|$)")


def shown_detail(phase: Phase, detail: str | None, trouble: str | None) -> str | None:
    """Give what the API serves as `phase_detail`: the detail, and what is in the way.

    Args:
        phase: where the invocation is.
        detail: why it is there.
        trouble: what keeps it there, in the words of a provisioner.
    """
    # A server of before does not know the column, and leaves it as it is at the end.
    if trouble is None or phase in _FINAL:
        return detail
    if phase is Phase.CANCELLING:
        return f"{detail or ''}; it could not be ended so far: {trouble}"
    return trouble if detail is None else f"{detail}: {trouble}"


def tried_again(error: str) -> str:
    """Say what a provisioner has answered to a call that is repeated."""
    return f"the provisioner says: {error}; tried again"


def attempt_of(attempt: int, attempts: int) -> str:
    """Say which attempt runs."""
    return f"attempt {attempt} of {attempts}"


def limit_in_use(*, in_use: int, limit: int, ahead: int, more_ahead: bool) -> str:
    """Say how many are before an invocation that waits for a slot.

    Args:
        in_use: open executions of the function.
        limit: its max_concurrency.
        ahead: older invocations that want a slot, as far as they were counted.
        more_ahead: whether there may be more of them.
    """
    waiting = f"{ahead}{' or more' if more_ahead else ''} waiting ahead"
    return f"{in_use} of {limit} concurrent executions in use, {waiting}"


def not_prepared(error: str | None) -> str:
    """Say why invocations of a function fail that could not be prepared."""
    return f"the function could not be prepared: {error}"


def interrupted_by(reason: InterruptReason, *, cancellation_reason: str | None) -> str:
    """Say why an invocation ends before its time."""
    if reason is InterruptReason.TIMED_OUT:
        return "the timeout has passed"
    return cancellation_reason or CANCELLATION_REQUESTED


def ending_worker(why: str) -> str:
    """Say what an invocation waits for whose worker was told to stop."""
    return f"{why}; waiting until the worker is gone"


def ended_attempt(attempt: int, attempts: int, *, end: str) -> str:
    """Say how an attempt has ended."""
    return f"{attempt_of(attempt, attempts)}: {end}"


def next_attempt(ended: str, *, at: datetime) -> str:
    """Say when the next attempt follows."""
    return f"{ended}; the next attempt follows at {at:%Y-%m-%d %H:%M:%S} UTC"


def aborted(ended: str) -> str:
    """Say that a worker reported ABORTED though it was not told to stop."""
    return f"the worker aborted by itself; {ended}"


def no_outcome(detail: str | None) -> str:
    """Say that a worker is gone that has reported no outcome."""
    return f"the worker ended without reporting an outcome: {detail or 'no details are known'}"


def end_of(cause: Cause | None, *, outcome: Outcome | None, error_message: str | None) -> str:
    """Give the cause of an execution's end, with what a person wants to know next."""
    reason = (error_message or "").partition("\n")[0]
    if outcome == Outcome.FAILED:
        error_class = _ERROR_CLASS.match(reason)
        reason = "" if error_class is None else error_class.group()
    return f"{cause} ({reason[:_MAX_REASON]})" if reason else str(cause)

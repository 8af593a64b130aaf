"""What becomes of an invocation: the rules, without any query.

`transitions.executions` gives them rows that are locked, and writes what they say.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from core.clock import utc_now
from core.deadline import deadline_of
from core.messages import CloseRequest
from core.states import Cause, InterruptReason, Outcome, Phase, PreparationStatus, WorkerStatus
from registry import explanations
from registry.database.tables import Execution, Invocation
from registry.queries.paths import FunctionContext

_PHASE_OF_INTERRUPT: Final = {
    InterruptReason.CANCELLED: Phase.CANCELLED,
    InterruptReason.TIMED_OUT: Phase.TIMED_OUT,
}
CAUSE_OF_INTERRUPT: Final = {
    InterruptReason.CANCELLED: Cause.CANCELLED,
    InterruptReason.TIMED_OUT: Cause.TIMED_OUT,
}


@dataclass(frozen=True, kw_only=True)
class End:
    """That an invocation is to end, and how."""

    phase: Phase
    detail: str
    error: str | None = None
    """What an execution is to say that never ran: existing clients look for errors only there."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """That an invocation is to get another execution, after a pause."""

    detail: str


def interrupt_due(context: FunctionContext, invocation: Invocation) -> InterruptReason | None:
    """Say why an invocation must get no further execution; None if it may."""
    if invocation.cancellation_requested_at or context.project.deletion_requested_at:
        return InterruptReason.CANCELLED
    deadline = deadline_of(invocation.created_at, timeout_seconds=context.function.timeout_seconds)
    return InterruptReason.TIMED_OUT if utc_now() >= deadline else None


def why_interrupted(invocation: Invocation, reason: InterruptReason) -> str:
    """Say why an invocation ends before its time, for a person."""
    return explanations.interrupted_by(reason, cancellation_reason=invocation.cancellation_reason)


def end_by(reason: InterruptReason, invocation: Invocation) -> End:
    """Say how an invocation without an open execution ends by a cancel or its deadline."""
    return End(phase=_PHASE_OF_INTERRUPT[reason], detail=why_interrupted(invocation, reason))


def end_before(context: FunctionContext, invocation: Invocation, *, attempt: int) -> End | None:
    """Say how an invocation ends instead of getting its next execution; None if it gets one.

    Args:
        context: its function.
        invocation: RUNNING, without an open execution.
        attempt: the number of that next execution, from 1.
    """
    function = context.function
    reason = interrupt_due(context, invocation)
    if reason is not None:
        return end_by(reason, invocation)
    if attempt > function.max_retries + 1:
        return End(phase=Phase.FAILED, detail=explanations.ATTEMPTS_USED_UP)
    if function.preparation_status == PreparationStatus.FAILED:
        error = function.preparation_error
        return End(phase=Phase.FAILED, detail=explanations.not_prepared(error), error=error or "")
    return None


def next_after(
    context: FunctionContext, invocation: Invocation, execution: Execution, request: CloseRequest
) -> End | Retry:
    """Say what follows an execution that has just ended; the first rule that fits."""
    attempts = context.function.max_retries + 1
    end = explanations.end_of(
        execution.cause, outcome=execution.outcome, error_message=execution.error_message
    )
    ended = explanations.ended_attempt(execution.attempt, attempts, end=end)
    due = request.interrupted or request.requested or interrupt_due(context, invocation)
    if execution.outcome == Outcome.SUCCEEDED:
        return End(phase=Phase.SUCCEEDED, detail=ended)
    if due is not None:
        detail = f"{why_interrupted(invocation, due)}; {ended}"
        return End(phase=_PHASE_OF_INTERRUPT[due], detail=detail)
    if execution.outcome == Outcome.ABORTED:
        return End(phase=Phase.CANCELLED, detail=explanations.aborted(ended))
    if execution.attempt >= attempts:
        return End(phase=Phase.FAILED, detail=ended)
    pause = timedelta(seconds=context.retry_pauses.after(execution.attempt))
    return Retry(detail=explanations.next_attempt(ended, at=utc_now() + pause))


def end_execution(execution: Execution, request: CloseRequest) -> None:
    """Put into an execution how its worker has ended."""
    now = utc_now()
    worker_exit = request.worker_exit
    execution.worker_status = WorkerStatus.TERMINATED
    execution.cause = _cause_of_end(execution, request)
    execution.exit_code = worker_exit.exit_code
    execution.terminated_at = now
    execution.updated_at = now
    if execution.error_message is None and request.provisioning_error is not None:
        execution.error_message = request.provisioning_error
    elif execution.outcome is None and request.interrupted is None:
        execution.error_message = explanations.no_outcome(worker_exit.detail)


def _cause_of_end(execution: Execution, request: CloseRequest) -> Cause:
    interrupted = request.interrupted
    match execution.outcome:
        case Outcome.SUCCEEDED:
            return Cause.SUCCEEDED
        case Outcome.FAILED:
            return Cause.USER_ERROR
        case Outcome.ABORTED:
            return Cause.ABORTED if interrupted is None else CAUSE_OF_INTERRUPT[interrupted]
    if interrupted is not None:
        return CAUSE_OF_INTERRUPT[interrupted]
    if request.provisioning_error is not None:
        return Cause.PROVISIONING_FAILED
    return request.worker_exit.cause or Cause.WORKER_LOST

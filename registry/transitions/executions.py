"""The transitions of invocations and executions that workflows ask for.

Each function is one transaction's work, may be called again with the same arguments, and then
changes nothing and answers the same. What becomes of an invocation is decided here and nowhere
else; workflows carry it out.
"""

import re
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from core.clock import utc_now
from core.deadline import deadline_of
from core.ids import ExecutionId, InvocationId, ProjectId
from core.messages import (
    Closed,
    CloseRequest,
    InterruptRequest,
    Opened,
    OpenRequest,
    Verdict,
    WaitingEnd,
)
from core.states import (
    Cause,
    InterruptReason,
    InvocationStatus,
    Outcome,
    Phase,
    PreparationStatus,
    QueueReason,
    WorkerStatus,
)
from core.temporal.names import deletion_workflow_id
from registry.changes import announce, announcement
from registry.database.tables import Execution, Invocation, table_of
from registry.queries.starts import pauses_of
from registry.transitions.cancellation import CANCELLATION_REQUESTED
from registry.transitions.preparation import detail_while_preparing
from registry.transitions.slots import (
    MAX_COUNTED,
    Asking,
    FunctionContext,
    call_next,
    lock_function_of,
    lock_function_of_execution,
    look_at_queue,
)

_PHASE_OF_INTERRUPT = {
    InterruptReason.CANCELLED: Phase.CANCELLED,
    InterruptReason.TIMED_OUT: Phase.TIMED_OUT,
}
_CAUSE_OF_INTERRUPT = {
    InterruptReason.CANCELLED: Cause.CANCELLED,
    InterruptReason.TIMED_OUT: Cause.TIMED_OUT,
}

_WITHOUT_USERS_DATA = (
    defer(Invocation.input, raiseload=True),
    defer(Execution.output, raiseload=True),
    defer(Execution.progress, raiseload=True),
)
# Rows are locked in the order of `of`, which is the lock order everywhere.
_CLOSING = (
    select(Execution, Invocation)
    .join(Invocation, Invocation.id == Execution.invocation_id)
    .where(Execution.id == bindparam("execution_id"))
    .options(*_WITHOUT_USERS_DATA)
    .with_for_update(of=[Execution, Invocation])
)
_NEW_EXECUTION = (
    "id",
    "invocation_id",
    "function_id",
    "attempt",
    "worker_status",
    "provisioner",
    "created_at",
    "updated_at",
)
# Two rows in one trip to Postgres, since others wait for the function's lock meanwhile.
_ADMIT = (
    update(table_of(Invocation))
    .where(Invocation.id == bindparam("of_invocation"))
    .values(
        phase=Phase.PROVISIONING,
        queue_reason=None,
        phase_detail=bindparam("new_phase_detail"),
        updated_at=bindparam("new_created_at"),
    )
    .add_cte(
        insert(table_of(Execution))
        .values({column: bindparam(f"new_{column}") for column in _NEW_EXECUTION})
        .cte("opened")
    )
)
_ENDED_EXECUTION = (
    "worker_status",
    "cause",
    "exit_code",
    "error_message",
    "terminated_at",
    "updated_at",
)
_ENDED_INVOCATION = (
    "status",
    "phase",
    "queue_reason",
    "phase_detail",
    "terminated_at",
    "updated_at",
)
_CLOSE = (
    update(table_of(Invocation))
    .where(Invocation.id == bindparam("of_invocation"))
    .values({column: bindparam(f"invocation_{column}") for column in _ENDED_INVOCATION})
    .add_cte(
        update(table_of(Execution))
        .where(Execution.id == bindparam("of_execution"))
        .values({column: bindparam(f"execution_{column}") for column in _ENDED_EXECUTION})
        .cte("closed")
    )
)
_CLOSE_AND_ANNOUNCE = _CLOSE.returning(announcement(Invocation.id))


async def open_execution(
    session: AsyncSession, request: OpenRequest, *, provisioner: str
) -> Opened:
    """Admit an invocation's next execution, or say why not (yet).

    Args:
        session: the transaction.
        request: the invocation, and the id that its execution is to get.
        provisioner: the kind that will make the worker, for the record.
    """
    context = await lock_function_of(session, request.invocation_id)
    asking = None
    if context is not None:
        asking = await look_at_queue(session, request.invocation_id, function=context.function)
    if context is None or asking is None:
        return Opened(verdict=Verdict.OVER, detail="the invocation was deleted")

    invocation, executions = asking.invocation, asking.executions
    still_open = [e for e in executions if e.worker_status != WorkerStatus.TERMINATED]
    if still_open and still_open[0].id == request.execution_id:
        return Opened(
            verdict=Verdict.ADMITTED,
            attempt=still_open[0].attempt,
            wake=await call_next(session, context.function, caller=request.execution_id),
        )
    if still_open:
        return Opened(
            verdict=Verdict.STALE,
            stale_execution_id=ExecutionId(still_open[0].id),
            detail="an execution of an earlier run is still open",
            interrupt=_interrupt_due(context, invocation),
        )
    execution = _new_execution(request, context, executions, provisioner)
    if invocation.status == InvocationStatus.RUNNING:
        failed = _end_if_due(context, invocation, execution)
        if failed is not None:
            session.add(failed)
    if invocation.status == InvocationStatus.TERMINATED:
        await session.flush()
        await announce(session, invocation.id)
        return Opened(
            verdict=Verdict.OVER,
            phase=invocation.phase,
            detail=invocation.phase_detail,
            wake=[
                *await call_next(session, context.function, caller=request.execution_id),
                *_deletion_of(context),
            ],
        )
    return await _admit_or_queue(session, context, asking, execution)


async def _admit_or_queue(
    session: AsyncSession, context: FunctionContext, asking: Asking, execution: Execution
) -> Opened:
    invocation, queue = asking.invocation, asking.queue
    if context.function.preparation_status == PreparationStatus.PENDING:
        detail = detail_while_preparing(context.function)
        return _queue(invocation, QueueReason.FUNCTION_NOT_READY, detail)

    limit = context.function.max_concurrency
    if queue.ahead >= limit - queue.in_use:
        ahead = f"{queue.ahead}{' or more' if queue.ahead == MAX_COUNTED else ''} waiting ahead"
        detail = f"{queue.in_use} of {limit} concurrent executions in use, {ahead}"
        queued = _queue(invocation, QueueReason.FUNCTION_LIMIT, detail)
        # Behind others who wait it would only be told so again: they ask, or are called, first.
        kept_by_newcomers = queue.ahead - queue.newcomers_ahead < limit - queue.in_use
        return queued.model_copy(update={"ask_again_seconds": 1.0 if kept_by_newcomers else None})

    attempts = context.function.max_retries + 1
    await session.execute(
        _ADMIT,
        {
            "of_invocation": invocation.id,
            "new_phase_detail": f"attempt {execution.attempt} of {attempts}",
            **{f"new_{column}": getattr(execution, column) for column in _NEW_EXECUTION},
        },
    )
    wake = []
    if queue.has_waiters:
        wake = await call_next(session, context.function, caller=execution.id)
    return Opened(verdict=Verdict.ADMITTED, attempt=execution.attempt, wake=wake)


def _end_if_due(
    context: FunctionContext, invocation: Invocation, execution: Execution
) -> Execution | None:
    """End an invocation that must get no further execution.

    Returns:
        The execution to store if the function could not be prepared: existing clients look for
        error texts only there.
    """
    function = context.function
    reason = _interrupt_due(context, invocation)
    if reason is not None:
        _terminate(invocation, _PHASE_OF_INTERRUPT[reason], _why(invocation, reason))
    elif execution.attempt > function.max_retries + 1:
        _terminate(invocation, Phase.FAILED, "all attempts are used up")
    elif function.preparation_status == PreparationStatus.FAILED:
        execution.worker_status = WorkerStatus.TERMINATED
        execution.error_message = function.preparation_error
        execution.cause = Cause.PROVISIONING_FAILED
        execution.terminated_at = execution.created_at
        detail = f"the function could not be prepared: {function.preparation_error}"
        _terminate(invocation, Phase.FAILED, detail)
        return execution
    return None


def _new_execution(
    request: OpenRequest,
    context: FunctionContext,
    executions: Sequence[Execution],
    provisioner: str,
) -> Execution:
    now = utc_now()
    return Execution(
        id=request.execution_id,
        invocation_id=request.invocation_id,
        function_id=context.function.id,
        attempt=len(executions) + 1,
        worker_status=WorkerStatus.PROVISIONING,
        provisioner=provisioner,
        created_at=now,
        updated_at=now,
    )


async def record_termination_signal(session: AsyncSession, request: InterruptRequest) -> None:
    """Note that the worker of an execution is about to be told to stop; the first time counts."""
    execution = await _lock_execution(session, request.execution_id)
    if execution is None or execution.worker_status == WorkerStatus.TERMINATED:
        return
    invocation = await _lock_invocation(session, InvocationId(execution.invocation_id))
    now = utc_now()
    if execution.termination_signal_at is None:
        execution.termination_signal_at = now
        execution.updated_at = now
    if invocation is not None and invocation.status == InvocationStatus.RUNNING:
        invocation.phase = Phase.CANCELLING
        invocation.phase_detail = (
            f"{_why(invocation, request.reason)}; waiting until the worker is gone"
        )


async def close_execution(session: AsyncSession, request: CloseRequest) -> Closed:
    """Record that the worker of an execution is gone, and decide: over, or another execution."""
    context = await lock_function_of_execution(session, request.execution_id)
    row = (await session.execute(_CLOSING, {"execution_id": request.execution_id})).one_or_none()
    if context is None or row is None:
        return Closed(final=True, detail="the invocation was deleted")

    execution, invocation = row
    if execution.worker_status != WorkerStatus.TERMINATED:
        # They are written below, by one statement, and not by the session.
        session.expunge(execution)
        session.expunge(invocation)
        _end_execution(execution, request)
        _decide(context, invocation, execution, request.interrupted or request.requested)
        is_over = invocation.status == InvocationStatus.TERMINATED
        await session.execute(
            _CLOSE_AND_ANNOUNCE if is_over else _CLOSE,
            {
                "of_invocation": invocation.id,
                "of_execution": execution.id,
                **{f"invocation_{name}": getattr(invocation, name) for name in _ENDED_INVOCATION},
                **{f"execution_{name}": getattr(execution, name) for name in _ENDED_EXECUTION},
            },
        )
    final = invocation.status == InvocationStatus.TERMINATED
    return Closed(
        final=final,
        phase=invocation.phase if final else None,
        cause=execution.cause,
        detail=invocation.phase_detail,
        wake=[
            *await call_next(session, context.function, caller=request.execution_id),
            *(_deletion_of(context) if final else ()),
        ],
        pause_seconds=None if final else pauses_of(context.function).after(execution.attempt),
    )


async def end_waiting(session: AsyncSession, request: WaitingEnd) -> Closed:
    """End an invocation that has no open execution, because of a cancel or its deadline."""
    context = await lock_function_of(session, request.invocation_id)
    open_execution_id = await session.scalar(
        select(Execution.id).where(
            Execution.invocation_id == request.invocation_id,
            Execution.worker_status != WorkerStatus.TERMINATED,
        )
    )
    invocation = await _lock_invocation(session, request.invocation_id)
    if context is None or invocation is None:
        return Closed(final=True, detail="the invocation was deleted")
    if invocation.status == InvocationStatus.RUNNING and open_execution_id is None:
        _terminate(
            invocation, _PHASE_OF_INTERRUPT[request.reason], _why(invocation, request.reason)
        )
        await session.flush()
        await announce(session, invocation.id)
    return Closed(
        final=invocation.status == InvocationStatus.TERMINATED,
        phase=invocation.phase,
        cause=_CAUSE_OF_INTERRUPT[request.reason],
        detail=invocation.phase_detail,
        wake=[
            *await call_next(session, context.function, caller=request.invocation_id),
            *_deletion_of(context),
        ],
    )


def _deletion_of(context: FunctionContext) -> list[str]:
    """Name the workflow that waits for the invocations of a project, if it is being deleted."""
    if context.project.deletion_requested_at is None:
        return []
    return [deletion_workflow_id(ProjectId(context.project.id))]


def _why(invocation: Invocation, reason: InterruptReason) -> str:
    if reason is InterruptReason.TIMED_OUT:
        return "the timeout has passed"
    return invocation.cancellation_reason or CANCELLATION_REQUESTED


def _end_execution(execution: Execution, request: CloseRequest) -> None:
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
        what = worker_exit.detail or "no details are known"
        execution.error_message = f"the worker ended without reporting an outcome: {what}"


def _cause_of_end(execution: Execution, request: CloseRequest) -> Cause:
    interrupted = request.interrupted
    match execution.outcome:
        case Outcome.SUCCEEDED:
            return Cause.SUCCEEDED
        case Outcome.FAILED:
            return Cause.USER_ERROR
        case Outcome.ABORTED:
            return Cause.ABORTED if interrupted is None else _CAUSE_OF_INTERRUPT[interrupted]
    if interrupted is not None:
        return _CAUSE_OF_INTERRUPT[interrupted]
    if request.provisioning_error is not None:
        return Cause.PROVISIONING_FAILED
    return request.worker_exit.cause or Cause.WORKER_LOST


def _decide(
    context: FunctionContext,
    invocation: Invocation,
    execution: Execution,
    requested: InterruptReason | None,
) -> None:
    if invocation.status == InvocationStatus.TERMINATED:
        return
    attempts = context.function.max_retries + 1
    ended = f"attempt {execution.attempt} of {attempts}: {_describe_end(execution)}"
    due = requested or _interrupt_due(context, invocation)
    if execution.outcome == Outcome.SUCCEEDED:
        _terminate(invocation, Phase.SUCCEEDED, ended)
    elif due is not None:
        _terminate(invocation, _PHASE_OF_INTERRUPT[due], f"{_why(invocation, due)}; {ended}")
    elif execution.outcome == Outcome.ABORTED:
        _terminate(invocation, Phase.CANCELLED, f"the worker aborted by itself; {ended}")
    elif execution.attempt >= attempts:
        _terminate(invocation, Phase.FAILED, ended)
    else:
        pause = timedelta(seconds=pauses_of(context.function).after(execution.attempt))
        when = f"at {utc_now() + pause:%Y-%m-%d %H:%M:%S} UTC"
        _queue(invocation, QueueReason.BACKOFF, f"{ended}; the next attempt follows {when}")


_ERROR_CLASS = re.compile(r"[A-Za-z_][\w.]{0,99}(?=:|$)")


def _describe_end(execution: Execution) -> str:
    """Give the cause with what a person wants to know next, and nothing of the user's data.

    This text reaches Temporal's history. Of a user's error it has the class name only.
    """
    reason = (execution.error_message or "").partition("\n")[0]
    if execution.outcome == Outcome.FAILED:
        error_class = _ERROR_CLASS.match(reason)
        reason = "" if error_class is None else error_class.group()
    return f"{execution.cause} ({reason[:300]})" if reason else str(execution.cause)


def _interrupt_due(context: FunctionContext, invocation: Invocation) -> InterruptReason | None:
    """Say whether an invocation must get no further execution."""
    if invocation.cancellation_requested_at or context.project.deletion_requested_at:
        return InterruptReason.CANCELLED
    deadline = deadline_of(invocation.created_at, timeout_seconds=context.function.timeout_seconds)
    return InterruptReason.TIMED_OUT if utc_now() >= deadline else None


def _queue(invocation: Invocation, reason: QueueReason, detail: str) -> Opened:
    invocation.phase = Phase.QUEUED
    invocation.queue_reason = reason
    invocation.phase_detail = detail
    return Opened(verdict=Verdict.WAIT, detail=detail)


def _terminate(invocation: Invocation, phase: Phase, detail: str) -> None:
    now = utc_now()
    invocation.status = InvocationStatus.TERMINATED
    invocation.phase = phase
    invocation.queue_reason = None
    invocation.phase_detail = detail
    invocation.terminated_at = now
    invocation.updated_at = now


async def _lock_execution(session: AsyncSession, execution_id: ExecutionId) -> Execution | None:
    return await session.get(Execution, execution_id, with_for_update=True)


async def _lock_invocation(session: AsyncSession, invocation_id: InvocationId) -> Invocation | None:
    return await session.get(Invocation, invocation_id, with_for_update=True)

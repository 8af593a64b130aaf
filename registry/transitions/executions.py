"""The transitions of invocations and executions that workflows ask for.

Each function is one transaction's work, may be called again with the same arguments, and then
changes nothing and answers the same. What becomes of an invocation is decided in
`transitions.decisions`; workflows carry it out.
"""

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from core.clock import utc_now
from core.ids import ExecutionId, InvocationId, ProjectId, deletion_workflow_id
from core.messages import (
    Admission,
    CloseRequest,
    Decision,
    EndWaitingRequest,
    InterruptRequest,
    OpenRequest,
    Verdict,
)
from core.states import (
    Cause,
    InvocationStatus,
    Phase,
    PreparationStatus,
    QueueReason,
    WorkerStatus,
)
from registry import explanations
from registry.database.tables import (
    Execution,
    Function,
    Invocation,
    table_of,
)
from registry.queries.paths import FunctionContext
from registry.transitions.decisions import (
    CAUSE_OF_INTERRUPT,
    End,
    Retry,
    end_before,
    end_by,
    end_execution,
    interrupt_due,
    next_after,
    why_interrupted,
)
from registry.transitions.ending import end_invocations
from registry.transitions.phases import change_phase
from registry.transitions.slots import (
    MAX_COUNTED,
    Applicant,
    lock_function_of,
    lock_function_of_execution,
    look_at_queue,
    offer_slots,
)

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
_NEW_EXECUTION = ("id", "invocation_id", "function_id", "attempt", "created_at", "updated_at")
_IS_MEANT = Invocation.id == bindparam("of_invocation")
# The function's; in rows of servers that knew no pools, what the invocation was started with.
_POOL = (
    select(func.coalesce(Function.pool, Invocation.pool))
    .join(Invocation, Invocation.function_id == Function.id)
    .where(Invocation.id == bindparam("new_invocation_id"))
    .scalar_subquery()
)
# Two rows in one trip to Postgres, since others wait for the function's lock meanwhile.
_ADMIT = change_phase(
    _IS_MEANT,
    phase=Phase.PROVISIONING,
    detail=bindparam("new_phase_detail"),
    updated_at=bindparam("new_created_at"),
).add_cte(
    insert(table_of(Execution))
    .values(
        {column: bindparam(f"new_{column}") for column in _NEW_EXECUTION}
        | {"worker_status": WorkerStatus.PROVISIONING, "pool": _POOL}
    )
    .cte("opened")
)
_QUEUE = change_phase(
    _IS_MEANT,
    phase=Phase.QUEUED,
    detail=bindparam("new_phase_detail"),
    queue_reason=bindparam("new_queue_reason", type_=Invocation.queue_reason.type),
    trouble=bindparam("new_trouble"),
)
_SIGNAL = change_phase(
    _IS_MEANT,
    phase=Phase.CANCELLING,
    detail=bindparam("new_phase_detail"),
)
_END = end_invocations(
    _IS_MEANT,
    phase=bindparam("new_phase", type_=Invocation.phase.type),
    detail=bindparam("new_phase_detail"),
    at=bindparam("ended_at"),
)
_ENDED_EXECUTION = (
    "worker_status",
    "cause",
    "exit_code",
    "error_message",
    "terminated_at",
    "updated_at",
)
_CLOSE = (
    update(table_of(Execution))
    .where(Execution.id == bindparam("of_execution"))
    .values({column: bindparam(f"execution_{column}") for column in _ENDED_EXECUTION})
)
_CLOSE_AND_QUEUE = _QUEUE.add_cte(_CLOSE.cte("closed"))
_CLOSE_AND_END = _END.add_cte(_CLOSE.cte("closed"))


async def open_execution(session: AsyncSession, request: OpenRequest) -> Admission:
    """Admit an invocation's next execution, or say why not (yet).

    Args:
        session: the transaction.
        request: the invocation, and the id that its execution is to get.
    """
    context = await lock_function_of(session, request.invocation_id)
    applicant = None
    if context is not None:
        applicant = await look_at_queue(session, request.invocation_id, function=context.function)
    if context is None or applicant is None:
        return Admission(verdict=Verdict.OVER, detail=explanations.INVOCATION_DELETED)

    invocation, executions = applicant.invocation, applicant.executions
    still_open = [e for e in executions if e.worker_status != WorkerStatus.TERMINATED]
    if still_open and still_open[0].id == request.execution_id:
        return Admission(
            verdict=Verdict.ADMITTED,
            attempt=still_open[0].attempt,
            pool=_pool_of(still_open[0], context),
            wake=await offer_slots(session, context.function, offered_by=request.execution_id),
        )
    if still_open:
        return Admission(
            verdict=Verdict.STALE,
            stale_execution_id=ExecutionId(still_open[0].id),
            pool=_pool_of(still_open[0], context),
            detail=explanations.EARLIER_EXECUTION_OPEN,
            interrupt=interrupt_due(context, invocation),
        )
    phase, detail = invocation.phase, invocation.phase_detail
    attempt = len(executions) + 1
    if invocation.status == InvocationStatus.RUNNING:
        end = end_before(context, invocation, attempt=attempt)
        if end is None:
            return await _admit_or_queue(session, context, applicant, request, attempt)
        if end.error is not None:
            failed = _failed_execution(
                request, context, invocation, attempt=attempt, error=end.error
            )
            session.add(failed)
        await _end(session, invocation, end)
        phase, detail = end.phase, end.detail
    return Admission(
        verdict=Verdict.OVER,
        phase=phase,
        detail=detail,
        wake=[
            *await offer_slots(session, context.function, offered_by=request.execution_id),
            *_deletion_of(context),
        ],
    )


async def _admit_or_queue(
    session: AsyncSession,
    context: FunctionContext,
    applicant: Applicant,
    request: OpenRequest,
    attempt: int,
) -> Admission:
    function, invocation, queue = context.function, applicant.invocation, applicant.queue
    if function.preparation_status == PreparationStatus.PENDING:
        return await _queue(
            session,
            invocation,
            QueueReason.FUNCTION_NOT_READY,
            explanations.BEING_PREPARED,
            trouble=function.preparation_error,
        )
    if queue.is_full_for(function):
        detail = explanations.limit_in_use(
            in_use=queue.in_use,
            limit=function.max_concurrency,
            ahead=queue.ahead,
            more_ahead=queue.ahead == MAX_COUNTED,
        )
        queued = await _queue(session, invocation, QueueReason.FUNCTION_LIMIT, detail)
        # Behind others that wait it would only be told so again: they ask, or are offered a slot,
        # first.
        again = 1.0 if queue.is_kept_by_newcomers(function) else None
        return queued.model_copy(update={"ask_again_seconds": again})

    now = utc_now()
    await session.execute(
        _ADMIT,
        {
            "of_invocation": invocation.id,
            "new_phase_detail": explanations.attempt_of(attempt, function.max_retries + 1),
            "new_id": request.execution_id,
            "new_invocation_id": invocation.id,
            "new_function_id": function.id,
            "new_attempt": attempt,
            "new_created_at": now,
            "new_updated_at": now,
        },
    )
    wake = []
    if queue.has_waiters:
        wake = await offer_slots(session, function, offered_by=request.execution_id)
    return Admission(verdict=Verdict.ADMITTED, attempt=attempt, pool=function.pool, wake=wake)


def _pool_of(execution: Execution, context: FunctionContext) -> str | None:
    """Say where an open execution runs; None if that is where the invocation was started.

    Servers that knew no pools wrote into an execution the kind of the Temporal worker that happened
    to open it. Its worker was made where the invocation was started.
    """
    return None if context.function.pool is None else execution.pool


async def _queue(
    session: AsyncSession,
    invocation: Invocation,
    reason: QueueReason,
    detail: str,
    *,
    trouble: str | None = None,
) -> Admission:
    """Let an invocation wait. One that waits for the same as before is not written again."""
    before = invocation.phase, invocation.queue_reason, invocation.phase_detail, invocation.trouble
    if before != (Phase.QUEUED, reason, detail, trouble):
        await session.execute(
            _QUEUE,
            {
                "of_invocation": invocation.id,
                "new_queue_reason": reason,
                "new_phase_detail": detail,
                "new_trouble": trouble,
            },
        )
    shown = explanations.shown_detail(Phase.QUEUED, detail, trouble)
    return Admission(verdict=Verdict.WAIT, detail=shown)


async def _end(session: AsyncSession, invocation: Invocation, end: End) -> None:
    await session.execute(
        _END,
        {
            "of_invocation": invocation.id,
            "new_phase": end.phase,
            "new_phase_detail": end.detail,
            "ended_at": utc_now(),
        },
    )


def _failed_execution(
    request: OpenRequest,
    context: FunctionContext,
    invocation: Invocation,
    *,
    attempt: int,
    error: str,
) -> Execution:
    """Make an execution that only says why there is none."""
    now = utc_now()
    return Execution(
        id=request.execution_id,
        invocation_id=request.invocation_id,
        function_id=context.function.id,
        attempt=attempt,
        worker_status=WorkerStatus.TERMINATED,
        pool=context.function.pool or invocation.pool,
        error_message=error,
        cause=Cause.PROVISIONING_FAILED,
        created_at=now,
        updated_at=now,
        terminated_at=now,
    )


async def record_termination_signal(session: AsyncSession, request: InterruptRequest) -> None:
    """Note that the worker of an execution is about to be told to stop; the first time counts."""
    execution = await session.get(Execution, request.execution_id, with_for_update=True)
    if execution is None or execution.worker_status == WorkerStatus.TERMINATED:
        return
    invocation = await _lock_invocation(session, InvocationId(execution.invocation_id))
    now = utc_now()
    if execution.termination_signal_at is None:
        execution.termination_signal_at = now
        execution.updated_at = now
    if invocation is not None:
        detail = explanations.ending_worker(why_interrupted(invocation, request.reason))
        await session.execute(_SIGNAL, {"of_invocation": invocation.id, "new_phase_detail": detail})


async def close_execution(session: AsyncSession, request: CloseRequest) -> Decision:
    """Record that the worker of an execution is gone, and decide: over, or another execution."""
    context = await lock_function_of_execution(session, request.execution_id)
    row = (await session.execute(_CLOSING, {"execution_id": request.execution_id})).one_or_none()
    if context is None or row is None:
        return Decision(final=True, detail=explanations.INVOCATION_DELETED)

    execution, invocation = row
    status, phase, detail = invocation.status, invocation.phase, invocation.phase_detail
    if execution.worker_status != WorkerStatus.TERMINATED:
        # It is written below, by one statement, and not by the session.
        session.expunge(execution)
        end_execution(execution, request)
        ended = {
            "of_execution": execution.id,
            **{f"execution_{name}": getattr(execution, name) for name in _ENDED_EXECUTION},
        }
        if status == InvocationStatus.TERMINATED:
            await session.execute(_CLOSE, ended)
        else:
            next_step = next_after(context, invocation, execution, request)
            detail = next_step.detail
            changed = {**ended, "of_invocation": invocation.id, "new_phase_detail": detail}
            if isinstance(next_step, Retry):
                await session.execute(
                    _CLOSE_AND_QUEUE,
                    {**changed, "new_queue_reason": QueueReason.BACKOFF, "new_trouble": None},
                )
            else:
                status, phase = InvocationStatus.TERMINATED, next_step.phase
                await session.execute(
                    _CLOSE_AND_END,
                    {**changed, "new_phase": phase, "ended_at": execution.terminated_at},
                )
    final = status == InvocationStatus.TERMINATED
    return Decision(
        final=final,
        phase=phase if final else None,
        cause=execution.cause,
        detail=detail,
        wake=[
            *await offer_slots(session, context.function, offered_by=request.execution_id),
            *(_deletion_of(context) if final else ()),
        ],
        pause_seconds=None if final else context.retry_pauses.after(execution.attempt),
    )


async def end_waiting(session: AsyncSession, request: EndWaitingRequest) -> Decision:
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
        return Decision(final=True, detail=explanations.INVOCATION_DELETED)
    status, phase, detail = invocation.status, invocation.phase, invocation.phase_detail
    if status == InvocationStatus.RUNNING and open_execution_id is None:
        end = end_by(request.reason, invocation)
        await _end(session, invocation, end)
        status, phase, detail = InvocationStatus.TERMINATED, end.phase, end.detail
    return Decision(
        final=status == InvocationStatus.TERMINATED,
        phase=phase,
        cause=CAUSE_OF_INTERRUPT[request.reason],
        detail=detail,
        wake=[
            *await offer_slots(session, context.function, offered_by=request.invocation_id),
            *_deletion_of(context),
        ],
    )


def _deletion_of(context: FunctionContext) -> list[str]:
    """Name the workflow that waits for the invocations of a project, if it is being deleted."""
    if context.project.deletion_requested_at is None:
        return []
    return [deletion_workflow_id(ProjectId(context.project.id))]


async def _lock_invocation(session: AsyncSession, invocation_id: InvocationId) -> Invocation | None:
    return await session.get(Invocation, invocation_id, with_for_update=True)

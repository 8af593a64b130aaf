"""Registry writes that workflows ask for. They run as local activities: short ones."""

from typing import TypeVar

from temporalio import activity

from core.messages import (
    Admission,
    CloseRequest,
    Decision,
    EndWaitingRequest,
    FunctionList,
    FunctionRef,
    InterruptRequest,
    LostWaiters,
    OpenRequest,
    PreparationFailure,
    PreparationInput,
    WakeList,
)
from core.temporal.dispatch import Dispatcher
from registry.database.engine import Registry
from registry.transitions import executions, preparation, slots

Answer = TypeVar("Answer", Admission, Decision)


class RegistryActivities:
    """One method, one transaction. See `registry.transitions.executions` for the rules.

    Args:
        registry: Postgres.
        dispatcher: names queues, and wakes the workflows that a transaction has named.
    """

    def __init__(self, registry: Registry, dispatcher: Dispatcher) -> None:
        self._registry = registry
        self._dispatcher = dispatcher

    @activity.defn
    async def open_execution(self, request: OpenRequest) -> Admission:
        """Admit the next execution of an invocation, or say why not (yet)."""
        async with self._registry.transaction() as session:
            admission = await executions.open_execution(session, request)
        if admission.pool is not None:
            queue = self._dispatcher.provisioner_queue(admission.pool)
            admission = admission.model_copy(update={"provisioner_queue": queue})
        return await self._wake(admission)

    @activity.defn
    async def record_termination_signal(self, request: InterruptRequest) -> None:
        """Note that a worker is about to be told to stop."""
        async with self._registry.transaction() as session:
            await executions.record_termination_signal(session, request)

    @activity.defn
    async def close_execution(self, request: CloseRequest) -> Decision:
        """Record the end of an execution, and decide what becomes of its invocation."""
        async with self._registry.transaction() as session:
            decision = await executions.close_execution(session, request)
        return await self._wake(decision)

    @activity.defn
    async def end_waiting(self, request: EndWaitingRequest) -> Decision:
        """End an invocation that has no open execution."""
        async with self._registry.transaction() as session:
            decision = await executions.end_waiting(session, request)
        return await self._wake(decision)

    @activity.defn
    async def set_aside_waiters(self, request: LostWaiters) -> WakeList:
        """Let others pass invocations whose workflows are gone, though they were offered a slot."""
        async with self._registry.transaction() as session:
            return WakeList(wake=await slots.set_aside(session, request.invocation_ids))

    @activity.defn
    async def list_unprepared_functions(self, request: PreparationInput) -> FunctionList:
        """Name the functions of a version that are still to be prepared."""
        async with self._registry.autocommit() as session:
            functions = await preparation.list_unprepared(session, request.version_id)
        return FunctionList(
            functions=[
                FunctionRef(
                    function_id=function.function_id,
                    function_name=function.name,
                    provisioner_queue=self._dispatcher.provisioner_queue(function.pool),
                )
                for function in functions
            ]
        )

    @activity.defn
    async def record_preparation_failure(self, request: PreparationFailure) -> WakeList:
        """Mark a function as impossible to prepare."""
        async with self._registry.transaction() as session:
            return WakeList(
                wake=await preparation.record_preparation_failure(
                    session, request.function_id, error=request.error
                )
            )

    async def _wake(self, answer: Answer) -> Answer:
        """Wake what the committed transaction has named, which takes half as long from here.

        The workflow tries again what could not be woken, and sets aside the invocations whose
        workflows are gone. After a crash before the answer is recorded, the same transition names
        the same ones again.
        """
        if not answer.wake:
            return answer
        return answer.model_copy(update={"wake": await self._dispatcher.wake(answer.wake)})

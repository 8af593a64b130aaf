"""Registry writes that workflows ask for. They run as local activities: short ones."""

from typing import TypeVar

from temporalio import activity

from core.ids import FunctionId
from core.messages import (
    Closed,
    CloseRequest,
    FunctionList,
    FunctionRef,
    InterruptRequest,
    LostWaiters,
    Opened,
    OpenRequest,
    Preparation,
    PreparationFailure,
    WaitingEnd,
    Woken,
)
from core.temporal.dispatch import Dispatcher
from registry.database.engine import Registry
from registry.transitions import executions, preparation, slots

Answer = TypeVar("Answer", Opened, Closed)


class RegistryActivities:
    """One method, one transaction. See `registry.transitions.executions` for the rules.

    Args:
        registry: Postgres.
        dispatcher: wakes the workflows that a transaction has called.
    """

    def __init__(self, registry: Registry, dispatcher: Dispatcher) -> None:
        self._registry = registry
        self._dispatcher = dispatcher

    @activity.defn
    async def open_execution(self, request: OpenRequest) -> Opened:
        """Admit the next execution of an invocation, or say why not (yet)."""
        async with self._registry.transaction() as session:
            opened = await executions.open_execution(
                session, request, provisioner=self._dispatcher.provisioner
            )
        return await self._wake(opened)

    @activity.defn
    async def record_termination_signal(self, request: InterruptRequest) -> None:
        """Note that a worker is about to be told to stop."""
        async with self._registry.transaction() as session:
            await executions.record_termination_signal(session, request)

    @activity.defn
    async def close_execution(self, request: CloseRequest) -> Closed:
        """Record the end of an execution, and decide what becomes of its invocation."""
        async with self._registry.transaction() as session:
            closed = await executions.close_execution(session, request)
        return await self._wake(closed)

    @activity.defn
    async def end_waiting(self, request: WaitingEnd) -> Closed:
        """End an invocation that has no open execution."""
        async with self._registry.transaction() as session:
            closed = await executions.end_waiting(session, request)
        return await self._wake(closed)

    @activity.defn
    async def set_aside_waiters(self, request: LostWaiters) -> Woken:
        """Let others pass called invocations whose workflows are gone."""
        async with self._registry.transaction() as session:
            return Woken(wake=await slots.set_aside(session, request.invocation_ids))

    @activity.defn
    async def list_unprepared_functions(self, request: Preparation) -> FunctionList:
        """Name the functions of a version that are still to be prepared."""
        async with self._registry.autocommit() as session:
            functions = await preparation.list_unprepared(session, request.version_id)
        return FunctionList(
            functions=[
                FunctionRef(function_id=FunctionId(function.id), function_name=function.name)
                for function in functions
            ]
        )

    @activity.defn
    async def record_preparation_failure(self, request: PreparationFailure) -> Woken:
        """Mark a function as impossible to prepare."""
        async with self._registry.transaction() as session:
            return Woken(
                wake=await preparation.record_preparation_failure(
                    session, request.function_id, error=request.error
                )
            )

    async def _wake(self, answer: Answer) -> Answer:
        """Wake whom the committed transaction has called, which takes half as long from here.

        Whoever could not be told is left to the workflow, which tries again and sets aside the
        invocations whose workflows are gone. After a crash before the answer is recorded, the same
        transition names the same ones again.
        """
        if not answer.wake:
            return answer
        return answer.model_copy(update={"wake": await self._dispatcher.wake(answer.wake)})

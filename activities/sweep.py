"""The sweep's steps: each compares two of registry, Temporal and provisioner, and repairs.

Everything here may run at any time and beside itself: what is found is looked at again before
something is done about it, and each repair is one that changes nothing where nothing is wrong.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from activities.heartbeat import heartbeating
from activities.records import record_of
from activities.tally import LEFT, MAX_REPAIRS, Tally
from core.clock import utc_now
from core.errors import InvocationDoesNotExistError, InvocationIsAlreadyTerminatedError
from core.ids import (
    ExecutionId,
    FunctionId,
    InvocationId,
    deletion_workflow_id,
    preparation_workflow_id,
)
from core.messages import Repairs, SweepRequest
from core.temporal.dispatch import Dispatcher
from core.temporal.states import WorkflowStates
from provisioners.base import Provisioner, ProvisionerError
from registry.database.engine import Registry
from registry.database.tables import Execution
from registry.transitions import sweep
from registry.transitions.cancellation import request_cancellation
from registry.transitions.slots import lock_function, offer_slots
from registry.transitions.sweep import ProjectToDelete, UnpreparedVersion

logger = structlog.get_logger(__name__)

_CHUNK = 1000
"""Ids in one query at most."""
_TERMINATION_SECONDS = 45.0
"""How long one sweep waits for the end of a worker; the next one goes on waiting."""

_MAX_ERROR_LENGTH = 2_000

# What a sweep's result and the log say, after the number.
STARTED = "invocations started that had no workflow"
STARTED_AGAIN = "invocations started again whose workflow had been lost"
ENDED_BY_HAND = "invocations cancelled whose workflow was ended by hand"
WORKFLOWS_WOKEN = "workflows woken whose invocation was deleted"
REJOINED = "invocations brought back into the queue"
CANCEL_REPEATED = "cancellations passed on to Temporal"
DESCENDANTS = "invocations cancelled with their parent"
OFFERED = "free slots offered to waiting invocations"
OFFERED_AGAIN = "invocations woken again that were offered a slot"
PREPARATIONS = "preparations of versions started"
DELETIONS = "deletions of projects started"
LEFTOVERS = "leftover workers ended"
STUBBORN = "leftover workers not ended yet"


@dataclass
class _Differences:
    """Between the registry and Temporal, as far as a list that may be old can tell."""

    closed: list[InvocationId] = field(default_factory=list)
    """RUNNING, but not among the open workflows."""
    cancelled: list[InvocationId] = field(default_factory=list)
    """Cancelled, with an open workflow."""
    set_aside: list[InvocationId] = field(default_factory=list)
    """Set aside because its workflow was gone, with an open workflow."""
    missing: list[InvocationId] = field(default_factory=list)
    """An open workflow without a row."""


class SweepActivities:
    """What the sweep does. The Temporal workers of the swept provisioner kind run it.

    Args:
        registry: Postgres.
        dispatcher: starts, cancels and wakes workflows of this kind.
        states: what Temporal knows.
        provisioner: of this kind.
        grace_seconds: time between the polite and the hard end of a worker.
        range_size: invocations that are compared at once.
        leftovers_limit: workers that one sweep tries to end at most.
    """

    def __init__(
        self,
        registry: Registry,
        dispatcher: Dispatcher,
        states: WorkflowStates,
        provisioner: Provisioner,
        *,
        grace_seconds: float,
        range_size: int = _CHUNK,
        leftovers_limit: int = 100,
    ) -> None:
        self._registry = registry
        self._dispatcher = dispatcher
        self._states = states
        self._provisioner = provisioner
        self._grace_seconds = grace_seconds
        self._range_size = range_size
        self._leftovers_limit = leftovers_limit
        # Workers that this process could not end at the last try.
        self._stubborn: set[ExecutionId] = set()

    @activity.defn
    async def compare_with_temporal(self, request: SweepRequest) -> Repairs:
        """See to it that each RUNNING invocation has an open workflow, and that both agree."""
        before = _grace_ago(request)
        done = Tally()
        async with heartbeating():
            await self._cancel_descendants(request, before, done)
            # Each range is repaired before the next one is read: whatever stops this sweep, the
            # first ones are done, and nothing is piled up.
            async for found in self._compare(request, before):
                await done.repair_each(found.closed, self._begin_again)
                await done.repair_each(found.cancelled, self._cancel)
                await done.repair_each(found.set_aside, self._wake_set_aside)
                await done.repair_each(found.missing, self._wake_missing)
            async with self._registry.autocommit() as session:
                closed = await sweep.list_ended_with_open_execution(
                    session, pool=request.provisioner, before=before, limit=MAX_REPAIRS
                )
            await done.repair_each(closed, self._begin_again)
        return _report(request, done)

    @activity.defn
    async def call_waiters(self, request: SweepRequest) -> Repairs:
        """See to it that no slot stays free while an invocation waits for it."""
        before = _grace_ago(request)
        done = Tally()
        async with heartbeating():
            async with self._registry.autocommit() as session:
                functions = await sweep.list_functions_with_idle_slots(
                    session, pool=request.provisioner, before=before, limit=MAX_REPAIRS
                )
                offered = await sweep.list_offered(
                    session, pool=request.provisioner, before=before, limit=MAX_REPAIRS
                )
            for function_id in functions:
                to_wake = await self._offer_slots(function_id)
                untold = await self._dispatcher.wake(to_wake)
                done.add(OFFERED, len(to_wake) - len(untold))
            untold = await self._dispatcher.wake(offered)
            done.add(OFFERED_AGAIN, len(offered) - len(untold))
        return _report(request, done)

    @activity.defn
    async def start_other_workflows(self, request: SweepRequest) -> Repairs:
        """See to it that versions are prepared, and that projects are deleted."""
        before = _grace_ago(request)
        done = Tally()
        async with heartbeating():
            async with self._registry.autocommit() as session:
                versions = await sweep.list_unprepared_versions(
                    session, pool=request.provisioner, before=before, limit=MAX_REPAIRS
                )
                projects = await sweep.list_projects_to_delete(
                    session, before=before, limit=MAX_REPAIRS
                )
            await done.repair_each(versions, self._start_preparation)
            await done.repair_each(projects, self._start_deletion)
        return _report(request, done)

    @activity.defn
    async def end_leftover_workers(self, request: SweepRequest) -> Repairs:
        """End the workers that belong to no open execution."""
        done = Tally()
        async with heartbeating():
            first = await self._find_leftovers(request)
            if first:
                # A second look: what is about to end by itself is not ours to end.
                await asyncio.sleep(request.grace_seconds)
                still = await self._find_leftovers(request)
                leftovers = [found for found in still.items() if found[0] in first]
                self._stubborn &= {execution_id for execution_id, _ in leftovers}
                # Those that could not be ended come last, and keep no other from being ended.
                leftovers.sort(key=lambda found: found[0] in self._stubborn)
                await done.repair_each(leftovers, self._end_worker, limit=self._leftovers_limit)
        return _report(request, done)

    async def _cancel_descendants(
        self, request: SweepRequest, before: datetime, done: Tally
    ) -> None:
        async with self._registry.autocommit() as session:
            forgotten = await sweep.list_forgotten_descendants(
                session, pool=request.provisioner, before=before, limit=MAX_REPAIRS
            )
        for invocation_id in forgotten:
            try:
                async with self._registry.transaction() as session:
                    to_cancel = await request_cancellation(session, invocation_id)
            except (InvocationIsAlreadyTerminatedError, InvocationDoesNotExistError):
                continue
            untold = await self._dispatcher.cancel_invocations(to_cancel)
            done.add(LEFT if untold else DESCENDANTS)

    async def _compare(
        self, request: SweepRequest, before: datetime
    ) -> AsyncIterator[_Differences]:
        """Go through all ids, from the first to the last, in ranges."""
        after: InvocationId | None = None
        while True:
            found = _Differences()
            async with self._registry.autocommit() as session:
                running = await sweep.list_running(
                    session,
                    pool=request.provisioner,
                    after=after,
                    before=before,
                    limit=self._range_size,
                )
            up_to = running[-1].invocation_id if len(running) == self._range_size else None
            is_open = await self._states.open_invocations(after=after, up_to=up_to)
            for one in running:
                if one.invocation_id not in is_open:
                    found.closed.append(one.invocation_id)
                elif one.is_cancelled:
                    found.cancelled.append(one.invocation_id)
                elif one.is_set_aside:
                    found.set_aside.append(one.invocation_id)
            # Rows are written before workflows are started, and were read after those were listed:
            # one that is not found was deleted, and is not yet to come.
            others = sorted(is_open.difference(one.invocation_id for one in running))
            for start in range(0, len(others), _CHUNK):
                some = others[start : start + _CHUNK]
                async with self._registry.autocommit() as session:
                    found.missing += await sweep.list_missing(session, some)
                    found.cancelled += await sweep.list_ended_by_cancel(
                        session, some, before=before
                    )
            yield found
            if up_to is None:
                return
            after = up_to

    async def _begin_again(self, invocation_id: InvocationId) -> str | None:
        state = await self._states.look(invocation_id)
        if state is not None and state.is_open:
            return None
        # A workflow writes that its invocation has ended before it ends itself, so a row that says
        # RUNNING now will not change without us.
        ended_by_hand = state is not None and state.ended_by_hand
        async with self._registry.transaction() as session:
            restart = await sweep.begin_again(session, invocation_id, ended_by_hand=ended_by_hand)
        if restart.start is not None and not await self._dispatcher.start_invocation(
            restart.start, again=True
        ):
            return LEFT
        await self._dispatcher.cancel_invocations(restart.to_cancel)
        if restart.cancelled:
            return ENDED_BY_HAND
        if restart.start is None:
            return None
        return STARTED if state is None else STARTED_AGAIN

    async def _cancel(self, invocation_id: InvocationId) -> str | None:
        state = await self._states.look(invocation_id)
        if state is None or not state.is_open or state.cancel_requested:
            return None
        untold = await self._dispatcher.cancel_invocations([invocation_id])
        return LEFT if untold else CANCEL_REPEATED

    async def _wake_set_aside(self, invocation_id: InvocationId) -> str | None:
        return None if await self._dispatcher.wake([invocation_id]) else REJOINED

    async def _wake_missing(self, invocation_id: InvocationId) -> str | None:
        return None if await self._dispatcher.wake([invocation_id]) else WORKFLOWS_WOKEN

    async def _offer_slots(self, function_id: FunctionId) -> Sequence[InvocationId]:
        async with self._registry.transaction() as session:
            context = await lock_function(session, function_id)
            if context is None:
                return []
            sweep_id = activity.info().workflow_id or ""
            return await offer_slots(session, context.function, offered_by=sweep_id)

    async def _start_preparation(self, version: UnpreparedVersion) -> str | None:
        state = await self._states.look(preparation_workflow_id(version.version_id))
        if state is not None and state.is_open:
            return None
        started = await self._dispatcher.start_preparation(
            version.version_id,
            project_name=version.project_name,
            default_pool=version.default_pool,
        )
        return PREPARATIONS if started else LEFT

    async def _start_deletion(self, project: ProjectToDelete) -> str | None:
        state = await self._states.look(deletion_workflow_id(project.project_id))
        if state is not None and state.is_open:
            return None
        started = await self._dispatcher.start_deletion(
            project.project_id, project_name=project.name
        )
        return DELETIONS if started else LEFT

    async def _find_leftovers(self, request: SweepRequest) -> dict[ExecutionId, Execution | None]:
        try:
            workers = await self._provisioner.list_workers()
        except ProvisionerError as error:
            # The sweep says so; it is no fault of ours that deserves a traceback in the log.
            raise ApplicationError(
                str(error)[:_MAX_ERROR_LENGTH],
                type=type(error).__name__,
                category=ApplicationErrorCategory.BENIGN,
            ) from error
        ended_before = utc_now() - timedelta(seconds=request.leftover_grace_seconds)
        async with self._registry.autocommit() as session:
            return dict(await sweep.find_leftovers(session, workers, ended_before=ended_before))

    async def _end_worker(self, leftover: tuple[ExecutionId, Execution | None]) -> str:
        execution_id, execution = leftover
        record = None if execution is None else record_of(execution)
        try:
            async with asyncio.timeout(_TERMINATION_SECONDS):
                await self._provisioner.terminate(execution_id, record, grace=self._grace_seconds)
                await self._provisioner.forget(execution_id)
        except Exception as error:  # noqa: BLE001 - the contract: any of them may pass
            logger.warning("leftover_worker_not_ended", execution_id=execution_id, error=str(error))
            self._stubborn.add(execution_id)
            return STUBBORN
        self._stubborn.discard(execution_id)
        return LEFTOVERS


def _grace_ago(request: SweepRequest) -> datetime:
    return utc_now() - timedelta(seconds=request.grace_seconds)


def _report(request: SweepRequest, done: Tally) -> Repairs:
    for name, count in done.counts.items():
        logger.info("sweep", provisioner=request.provisioner, count=count, what=name)
    return Repairs(counts=done.counts)

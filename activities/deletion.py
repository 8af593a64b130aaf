"""The steps of a project's deletion. Each is cut into small transactions, and into short calls.

A call ends after a few seconds and says whether it got to the end, so that the workflow can show
how far the deletion is. A call that dies on the way is made again: the rows say what is left.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from activities.heartbeat import heartbeating
from core.ids import InvocationId, ProjectId, VersionId
from core.messages import (
    ProjectCancelProgress,
    ProjectCancelRequest,
    ProjectRowsProgress,
    ProjectRowsRequest,
)
from registry.database.engine import Registry
from registry.queries.bundles import delete_bundles
from registry.queries.piece_stores import PieceStore, PostgresPieces
from registry.queries.projects import is_deletion_requested
from registry.transitions import deletion

_SECONDS = 5.0
"""How long one call works, about."""
_AT_ONCE = 50
"""Calls to Temporal under way at the same time."""
_RPC_TIMEOUT = timedelta(seconds=10)


class _Clock:
    """Says when a call has worked long enough."""

    def __init__(self) -> None:
        self._end = time.monotonic() + _SECONDS

    def is_over(self) -> bool:
        return time.monotonic() >= self._end


class DeletionActivities:
    """What the deletion of a project does to the registry, and to the project's workflows."""

    def __init__(
        self, registry: Registry, client: Client, pieces: PieceStore | None = None
    ) -> None:
        self._registry = registry
        self._client = client
        self._pieces = pieces or PostgresPieces(registry)

    @activity.defn
    async def cancel_project(self, request: ProjectCancelRequest) -> ProjectCancelProgress:
        """Cancel what runs in a project; end at once what has no open execution."""
        clock = _Clock()
        ended = running = 0
        async with heartbeating():
            if not await self._is_requested(request.project_id):
                return ProjectCancelProgress()
            async with self._registry.autocommit() as session:
                functions = await deletion.list_running_functions(
                    session, request.project_id, start=request.from_function
                )
            for function_id in functions:
                more = True
                while more:
                    if clock.is_over():
                        return ProjectCancelProgress(
                            ended=ended, running=running, next_function=function_id
                        )
                    async with self._registry.transaction() as session:
                        cancelled = await deletion.cancel_some(session, function_id)
                    await self._end_workflows(cancelled.ended)
                    ended += len(cancelled.ended)
                    more = len(cancelled.ended) == deletion.ROWS_AT_ONCE
                # Also those that were asked before: it is harmless, and mends a lost first time.
                await _each(self._cancel_workflow, cancelled.running)
                running += len(cancelled.running)
        return ProjectCancelProgress(ended=ended, running=running)

    @activity.defn
    async def delete_project_rows(self, request: ProjectRowsRequest) -> ProjectRowsProgress:
        """Delete the ended invocations of a project, and then what is left of it."""
        clock = _Clock()
        deleted = 0
        async with heartbeating():
            if not await self._is_requested(request.project_id):
                return ProjectRowsProgress()
            async with self._registry.autocommit() as session:
                versions = await deletion.list_versions(session, request.project_id)
            for version_id in versions:
                while batch := await self._delete_batch(version_id):
                    deleted += batch
                    if clock.is_over():
                        return ProjectRowsProgress(invocations=deleted, complete=False)
            complete = await self._delete_the_rest(request.project_id, clock)
        return ProjectRowsProgress(invocations=deleted, complete=complete)

    async def _delete_batch(self, version_id: VersionId) -> int:
        async with self._registry.autocommit() as session:
            batch = await deletion.next_batch(session, version_id)
        if not batch.invocation_ids:
            return 0
        await self._end_workflows(batch.workflows_to_end)
        for step in (deletion.cut_off_children, deletion.delete_log_chunks):
            async with self._registry.autocommit() as session:
                while await step(session, batch.invocation_ids) == deletion.ROWS_AT_ONCE:
                    pass
        async with self._registry.transaction() as session:
            return await deletion.delete_invocations(session, batch.invocation_ids)

    async def _delete_the_rest(self, project_id: ProjectId, clock: _Clock) -> bool:
        left: bool | None = True
        while left:
            async with self._registry.transaction() as session:
                left = await deletion.delete_functions(session, project_id)
            if left is None or clock.is_over():
                return False
        async with self._registry.autocommit() as session:
            while await deletion.delete_versions(session, project_id):
                pass
        while await self._pieces.delete_some(project_id):
            if clock.is_over():
                return False
        async with self._registry.autocommit() as session:
            while await delete_bundles(session, project_id):
                pass
            await deletion.delete_project(session, project_id)
        return True

    async def _is_requested(self, project_id: ProjectId) -> bool:
        async with self._registry.autocommit() as session:
            requested = await is_deletion_requested(session, project_id)
        if requested is False:
            raise ApplicationError(
                "no user has asked for this project to be deleted",
                type="DeletionNotRequested",
                non_retryable=True,
            )
        return requested is not None

    async def _end_workflows(self, invocation_ids: Sequence[InvocationId]) -> None:
        """End the workflows of ended invocations: a termination needs no Temporal worker."""
        if not invocation_ids:
            return
        await _each(self._terminate_workflow, invocation_ids)
        async with self._registry.autocommit() as session:
            await deletion.record_workflows_ended(session, invocation_ids)

    async def _terminate_workflow(self, invocation_id: InvocationId) -> None:
        handle = self._client.get_workflow_handle(invocation_id)
        await handle.terminate(reason="the project was deleted", rpc_timeout=_RPC_TIMEOUT)

    async def _cancel_workflow(self, invocation_id: InvocationId) -> None:
        handle = self._client.get_workflow_handle(invocation_id)
        await handle.cancel(rpc_timeout=_RPC_TIMEOUT)


async def _each(
    call: Callable[[InvocationId], Awaitable[None]], invocation_ids: Sequence[InvocationId]
) -> None:
    """Make a call about each workflow, some at once. One that is gone, or never was, is fine.

    Raises:
        RPCError: Temporal did not answer; the others may have been reached.
    """
    todo = iter(invocation_ids)

    failures: list[RPCError] = []

    async def work() -> None:
        for invocation_id in todo:
            try:
                await call(invocation_id)
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    failures.append(error)
                    return

    await asyncio.gather(*(work() for _ in range(min(_AT_ONCE, len(invocation_ids)))))
    if failures:
        raise failures[0]

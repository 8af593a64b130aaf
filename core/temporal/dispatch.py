"""Starting, cancelling and waking workflows, always after the registry's transaction.

Row first, workflow second: a call here that fails changes nothing about the row that was written,
so it is logged and not raised; the sweep makes up for it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog
from temporalio.client import Client
from temporalio.common import (
    RetryPolicy,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from core.deadline import deadline_of
from core.ids import (
    InvocationId,
    ProjectId,
    VersionId,
    deletion_workflow_id,
    preparation_workflow_id,
)
from core.messages import (
    InvocationInput,
    InvocationStart,
    PreparationInput,
    ProjectDeletionInput,
    SweepRequest,
)
from core.temporal.client import FUNCTION, PROJECT, VERSION
from core.temporal.names import (
    INVOCATION,
    PROJECT_DELETION,
    VERSION_PREPARATION,
    WAKE_SIGNAL,
)
from core.temporal.queues import control_queue, provisioner_queue
from core.text import code_in_markdown, in_markdown

logger = structlog.get_logger(__name__)

_RPC_TIMEOUT = timedelta(seconds=5)
_AT_ONCE = 20
"""Calls to Temporal that one request makes at the same time."""


@dataclass
class _Attempt:
    succeeded: bool = False


class Dispatcher:
    """Starts, cancels and wakes workflows.

    Args:
        client: the connection to Temporal.
        task_queue: prefix of the queues' names.
        heartbeat_seconds: after so long without a heartbeat an activity is run again elsewhere.
        look_again_seconds: after so long the deletion of a project looks again without a wake.
    """

    def __init__(
        self,
        client: Client,
        *,
        task_queue: str,
        heartbeat_seconds: float = 10.0,
        look_again_seconds: float = 30.0,
    ) -> None:
        self._client = client
        self._queue = control_queue(task_queue)
        self._task_queue = task_queue
        self._heartbeat_seconds = heartbeat_seconds
        self._look_again_seconds = look_again_seconds

    def provisioner_queue(self, pool: str) -> str:
        """Name the task queue of a pool's provisioner calls."""
        return provisioner_queue(self._task_queue, pool)

    def sweep_request(self, pool: str) -> SweepRequest:
        """Give what the sweep of a pool is started with."""
        return SweepRequest(
            provisioner=pool,
            provisioner_queue=self.provisioner_queue(pool),
            heartbeat_seconds=self._heartbeat_seconds,
        )

    async def start_invocation(self, start: InvocationStart, *, again: bool = False) -> bool:
        """Start the workflow of an invocation whose row is committed.

        Args:
            start: the facts.
            again: start it also if there was one that has ended: the sweep found it lost.

        Returns:
            Whether it is there now; False if Temporal is away.
        """
        attempts = start.max_retries + 1
        title = f"{start.function_name} @ {start.project_name}"
        input_ = InvocationInput(
            invocation_id=start.invocation_id,
            title=title,
            deadline=deadline_of(start.created_at, timeout_seconds=start.timeout_seconds),
            max_attempts=attempts,
            provisioner_queue=self.provisioner_queue(start.pool),
            heartbeat_seconds=self._heartbeat_seconds,
        )
        async with self._tolerant("start_invocation", start.invocation_id) as attempt:
            await self._client.start_workflow(
                INVOCATION,
                input_,
                id=start.invocation_id,
                task_queue=self._queue,
                retry_policy=RetryPolicy(
                    maximum_attempts=attempts,
                    initial_interval=timedelta(seconds=start.pauses.initial_interval_seconds),
                    backoff_coefficient=start.pauses.backoff_coefficient,
                    maximum_interval=timedelta(seconds=start.pauses.limit_seconds),
                ),
                id_reuse_policy=(
                    WorkflowIDReusePolicy.ALLOW_DUPLICATE
                    if again
                    else WorkflowIDReusePolicy.REJECT_DUPLICATE
                ),
                static_summary=(
                    f"{in_markdown(start.function_name)} @ {in_markdown(start.project_name)}"
                ),
                static_details=(
                    f"Invocation `{start.invocation_id}` of function "
                    f"{code_in_markdown(start.function_name)}, version `{start.version_id}` of "
                    f"project {code_in_markdown(start.project_name)}. "
                    "Each run of this workflow is one execution."
                ),
                search_attributes=TypedSearchAttributes(
                    [
                        SearchAttributePair(PROJECT, start.project_name),
                        SearchAttributePair(VERSION, start.version_id),
                        SearchAttributePair(FUNCTION, start.function_name),
                    ]
                ),
                request_eager_start=True,
                rpc_timeout=_RPC_TIMEOUT,
            )
        return attempt.succeeded

    async def start_preparation(
        self, version_id: VersionId, *, project_name: str, default_pool: str
    ) -> bool:
        """Start the preparation of a version whose row is committed.

        Args:
            version_id: the version.
            project_name: its project, for people who look at Temporal's UI.
            default_pool: where those of its functions run that name no pool.

        Returns:
            Whether it is there now; False if Temporal is away.
        """
        async with self._tolerant("start_preparation", version_id) as attempt:
            await self._client.start_workflow(
                VERSION_PREPARATION,
                PreparationInput(
                    version_id=version_id,
                    provisioner_queue=self.provisioner_queue(default_pool),
                    heartbeat_seconds=self._heartbeat_seconds,
                ),
                id=preparation_workflow_id(version_id),
                task_queue=self._queue,
                static_summary=f"prepare a version of {in_markdown(project_name)}",
                search_attributes=TypedSearchAttributes(
                    [
                        SearchAttributePair(PROJECT, project_name),
                        SearchAttributePair(VERSION, version_id),
                    ]
                ),
                request_eager_start=True,
                rpc_timeout=_RPC_TIMEOUT,
            )
        return attempt.succeeded

    async def start_deletion(self, project_id: ProjectId, *, project_name: str) -> bool:
        """Start the deletion of a project whose request is committed.

        One that is under way is left alone; one that was ended by hand is started again.

        Returns:
            Whether it is there now; False if Temporal is away.
        """
        async with self._tolerant("start_deletion", project_id) as attempt:
            await self._client.start_workflow(
                PROJECT_DELETION,
                ProjectDeletionInput(
                    project_id=project_id,
                    project_name=project_name,
                    heartbeat_seconds=self._heartbeat_seconds,
                    look_again_seconds=self._look_again_seconds,
                ),
                id=deletion_workflow_id(project_id),
                task_queue=self._queue,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                static_summary=f"delete {in_markdown(project_name)}",
                search_attributes=TypedSearchAttributes(
                    [SearchAttributePair(PROJECT, project_name)]
                ),
                rpc_timeout=_RPC_TIMEOUT,
            )
        return attempt.succeeded

    async def cancel_invocations(self, invocation_ids: Sequence[InvocationId]) -> list[str]:
        """Ask Temporal to cancel the workflows of invocations whose cancellation is committed.

        Returns:
            Those that could not be cancelled: their workflow is gone, or Temporal is away.
        """

        async def cancel(invocation_id: str) -> bool:
            async with self._tolerant("cancel_invocation", invocation_id) as attempt:
                handle = self._client.get_workflow_handle(invocation_id)
                await handle.cancel(rpc_timeout=_RPC_TIMEOUT)
            return attempt.succeeded

        return await _failures(cancel, invocation_ids)

    async def wake(self, workflow_ids: Sequence[str]) -> list[str]:
        """Tell workflows to look again: invocations for a slot, the deletion of a project.

        Returns:
            Those that could not be told: their workflow is gone, or Temporal is away.
        """

        async def wake(workflow_id: str) -> bool:
            async with self._tolerant("wake", workflow_id) as attempt:
                handle = self._client.get_workflow_handle(workflow_id)
                await handle.signal(WAKE_SIGNAL, rpc_timeout=_RPC_TIMEOUT)
            return attempt.succeeded

        return await _failures(wake, workflow_ids)

    @asynccontextmanager
    async def _tolerant(self, action: str, workflow_id: str) -> AsyncIterator[_Attempt]:
        attempt = _Attempt()
        try:
            yield attempt
            attempt.succeeded = True
        except WorkflowAlreadyStartedError:
            attempt.succeeded = True
            logger.info("workflow_already_started", action=action, workflow_id=workflow_id)
        except (RPCError, RuntimeError) as error:
            # RuntimeError is what a lazy client raises when it cannot connect.
            logger.warning(
                "temporal_call_failed", action=action, workflow_id=workflow_id, error=str(error)
            )


async def _failures(call: Callable[[str], Awaitable[bool]], ids: Sequence[str]) -> list[str]:
    """Call for each, some at once; returns those for which it did not succeed."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def limited(workflow_id: str) -> bool:
        async with limit:
            return await call(workflow_id)

    succeeded = await asyncio.gather(*(limited(workflow_id) for workflow_id in ids))
    return [workflow_id for workflow_id, done in zip(ids, succeeded, strict=True) if not done]

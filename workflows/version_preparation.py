"""Preparing a new version: each of its functions, with retry, and waking what waits for them."""

import asyncio
from collections import defaultdict
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.provisioning import UNRECOVERABLE, ProvisioningActivities
    from activities.registry import RegistryActivities
    from core.messages import FunctionRef, PreparationFailure, PreparationInput, WakeList
    from core.temporal.names import VERSION_PREPARATION
    from core.text import in_markdown
    from workflows.policies import PROVISIONER_RETRIES, REGISTRY_CALL
    from workflows.waking import wake_all

_AT_ONCE = 20
"""Functions of one pool prepared at the same time; a pool that is not served holds up no other."""


@workflow.defn(name=VERSION_PREPARATION)
class VersionPreparationWorkflow:
    """Prepares the functions of one version; ends when each is READY or has failed for good."""

    @workflow.run
    async def run(self, request: PreparationInput) -> str:
        """Prepare all; returns a sentence for the UI."""
        todo = await workflow.execute_local_activity_method(
            RegistryActivities.list_unprepared_functions, request, **REGISTRY_CALL
        )
        limits = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(_AT_ONCE))
        queues = [ref.provisioner_queue or request.provisioner_queue for ref in todo.functions]
        results = await asyncio.gather(
            *(
                self._prepare(request, ref, queue, limits[queue])
                for ref, queue in zip(todo.functions, queues, strict=True)
            )
        )
        failed = results.count(False)
        summary = f"{len(results) - failed} functions ready, {failed} failed"
        workflow.set_current_details(summary)
        return summary

    async def _prepare(
        self, request: PreparationInput, ref: FunctionRef, queue: str, limit: asyncio.Semaphore
    ) -> bool:
        async with limit:
            try:
                woken = await workflow.execute_activity_method(
                    ProvisioningActivities.prepare_function,
                    ref,
                    task_queue=queue,
                    start_to_close_timeout=timedelta(minutes=30),
                    heartbeat_timeout=timedelta(seconds=request.heartbeat_seconds),
                    retry_policy=PROVISIONER_RETRIES,
                    summary=in_markdown(ref.function_name),
                )
            except ActivityError as error:
                woken = await self._record_failure(ref, error)
                await wake_all(woken.wake)
                return False
            await wake_all(woken.wake)
            return True

    async def _record_failure(self, ref: FunctionRef, error: ActivityError) -> WakeList:
        cause = error.cause
        if not isinstance(cause, ApplicationError) or cause.type != UNRECOVERABLE:
            raise error
        return await workflow.execute_local_activity_method(
            RegistryActivities.record_preparation_failure,
            PreparationFailure(function_id=ref.function_id, error=cause.message),
            **REGISTRY_CALL,
        )

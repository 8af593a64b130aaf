"""Telling workflows to look again: queued invocations for a slot, a project's deletion."""

from collections.abc import Sequence

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.registry import RegistryActivities
    from core.messages import LostWaiters
    from core.temporal.names import WAKE_SIGNAL
    from workflows.policies import REGISTRY_CALL


async def wake_all(workflow_ids: Sequence[str]) -> None:
    """Wake workflows, above all of invocations that a slot is held free for.

    One whose workflow is gone (terminated by hand, say) is set aside in the registry, and the next
    in line is woken in its place, so that it does not hold up the others.
    """
    to_wake = workflow_ids
    while to_wake:
        lost = [workflow_id for workflow_id in to_wake if not await _wake(workflow_id)]
        if not lost:
            return
        instead = await workflow.execute_local_activity_method(
            RegistryActivities.set_aside_waiters, LostWaiters(invocation_ids=lost), **REGISTRY_CALL
        )
        to_wake = instead.wake


async def _wake(workflow_id: str) -> bool:
    handle = workflow.get_external_workflow_handle(workflow_id)
    try:
        await handle.signal(WAKE_SIGNAL)
    except ApplicationError:
        return False
    return True

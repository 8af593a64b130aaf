"""The sweep: a schedule starts it every half minute, and it repairs what has come apart.

What is written in one place and not yet in the other, when a process dies or a server is away, is
found here; also what a person has done by hand. The steps are activities, which say in words what
they have repaired. What one sweep has not repaired is for the next one, so nothing is tried long.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities.sweep import SweepActivities
    from core.messages import Repairs, SweepRequest
    from core.temporal.names import SWEEP
    from core.temporal.queues import sweep_queue
    from core.text import in_markdown

_Step = Callable[[SweepActivities, SweepRequest], Awaitable[Repairs]]


@workflow.defn(name=SWEEP)
class SweepWorkflow:
    """One sweep over the invocations, versions and workers of one provisioner kind."""

    @workflow.init
    def __init__(self, request: SweepRequest) -> None:
        self._request = request
        self._done: Counter[str] = Counter()
        self._problems: list[str] = []

    @workflow.run
    async def run(self, request: SweepRequest) -> str:
        """Sweep once; returns a sentence for the UI, or fails with one if a step was impossible."""
        workflow.set_current_details(f"**Sweeping** what `{request.provisioner}` runs")
        # To end a worker may take long; the rest does not wait for it.
        leftovers = asyncio.create_task(self._take(SweepActivities.end_leftover_workers))
        await self._take(SweepActivities.compare_with_temporal)
        await self._take(SweepActivities.call_waiters)
        await self._take(SweepActivities.start_other_workflows)
        await leftovers
        repaired = "; ".join(f"{count} {what}" for what, count in sorted(self._done.items()))
        summary = repaired or "nothing to repair"
        workflow.set_current_details("\n\n".join([summary, *map(in_markdown, self._problems)]))
        if self._problems:
            raise ApplicationError(f"{'; '.join(self._problems)}; {summary}", type="SweepFailed")
        return summary

    async def _take(self, step: _Step) -> None:
        name = step.__name__.replace("_", " ")
        try:
            repaired = await workflow.execute_activity_method(
                step,
                self._request,
                # Not the control queue: only this kind's Temporal workers can start its workflows.
                task_queue=sweep_queue(self._request.provisioner_queue),
                start_to_close_timeout=timedelta(minutes=5),
                schedule_to_close_timeout=timedelta(minutes=10),
                heartbeat_timeout=timedelta(seconds=self._request.heartbeat_seconds),
                retry_policy=RetryPolicy(maximum_attempts=3),
                summary=name,
            )
        except ActivityError as error:
            cause = error.cause.message if isinstance(error.cause, FailureError) else str(error)
            self._problems.append(f"could not {name}: {cause}")
            return
        self._done.update(repaired.counts)

"""The Temporal schedule that starts the sweeps."""

from datetime import timedelta

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)

from core.messages import SweepRequest
from core.temporal.names import SWEEP, sweep_schedule_id
from core.temporal.queues import control_queue

_LONGEST_SWEEP = timedelta(minutes=20)
"""Longer than the steps' own limits; it is reached only if no Temporal worker is there."""


async def keep_sweep_schedule(
    client: Client, request: SweepRequest, *, task_queue: str, every: timedelta
) -> None:
    """Create the schedule, or bring the one that is there up to date.

    Each Temporal worker does this when it starts; it does not matter which one is first. Whether
    the schedule is paused is left as it is.

    Args:
        client: the connection to Temporal.
        request: what each sweep is started with.
        task_queue: prefix of the queues' names.
        every: time from one sweep to the next.

    Raises:
        RPCError: Temporal refuses.
    """
    schedule_id = sweep_schedule_id(task_queue, request.provisioner)
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(
            SWEEP,
            request,
            id=schedule_id,
            task_queue=control_queue(task_queue),
            execution_timeout=_LONGEST_SWEEP,
            static_summary=f"sweep of what {request.provisioner} runs",
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)]),
        policy=SchedulePolicy(
            overlap=ScheduleOverlapPolicy.SKIP,
            # What was missed while Temporal was away is done by the next one.
            catchup_window=max(every, timedelta(seconds=10)),
        ),
    )

    def update(found: ScheduleUpdateInput) -> ScheduleUpdate:
        schedule.state = found.description.schedule.state
        return ScheduleUpdate(schedule=schedule)

    try:
        await client.create_schedule(schedule_id, schedule)
    except ScheduleAlreadyRunningError:
        await client.get_schedule_handle(schedule_id).update(update)

"""Puts a Temporal worker together. The only place that knows all workflows and activities."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkflowRunner

from activities.deletion import DeletionActivities
from activities.provisioning import ProvisioningActivities, WorkerAccess
from activities.registry import RegistryActivities
from activities.sweep import SweepActivities
from core.settings import TemporalWorkerSettings
from core.temporal.queues import (
    control_queue,
    provisioner_queue,
    sweep_queue,
    termination_queue,
    watch_queue,
)
from core.temporal.schedules import keep_sweep_schedule
from core.temporal.states import WorkflowStates
from provisioners.base import Provisioner
from registry.changes import Changes
from registry.database.deployment import get_deployment
from registry.queries.bundles import StoredBundles
from runtime.parts import Parts
from workflows.invocation import InvocationWorkflow
from workflows.project_deletion import ProjectDeletionWorkflow
from workflows.sweep import SweepWorkflow
from workflows.version_preparation import VersionPreparationWorkflow

WORKFLOWS = [
    InvocationWorkflow,
    VersionPreparationWorkflow,
    ProjectDeletionWorkflow,
    SweepWorkflow,
]

_GRACEFUL_SHUTDOWN = timedelta(seconds=1)
"""Time for short activities to end; watching goes on in the next Temporal worker."""

_STICKY_TIMEOUT = timedelta(seconds=3)
"""How long a workflow waits for the Temporal worker that has it in its cache.

After a kill -9 of that one, others go on with the workflow only then; Temporal's default is 10 s.
Too short a time costs little: our histories are replayed in milliseconds.
"""

_REGISTRY_CALLS = 5
"""Transitions of invocations under way at the same time: they take milliseconds.

Those of one function wait for its row's lock. A wait that is too long is given up and begun again.
With many at once, a machine that is short of time did nothing else any more. What waits for a place
here costs nothing.
"""

_WORKFLOW_TASKS = 20
"""Steps of workflows under way at the same time; most wait for a registry transition.

After a kill -9 each of them waits for its timeout of 10 s, and the server counts it as a failure of
that step: the fewer, the better.
"""

_PROVISIONER_CALLS = 200
"""Calls of the provisioner under way at the same time that prepare functions and make workers."""

_SWEEP_STEPS = 10
"""Under way at the same time. A sweep has two, and the schedule starts one sweep at a time."""


@asynccontextmanager
async def temporal_worker(
    parts: Parts,
    *,
    provisioner: Provisioner,
    settings: TemporalWorkerSettings,
    workflow_runner: WorkflowRunner | None = None,
) -> AsyncIterator[list[Worker]]:
    """Run the Temporal worker during the block: all queues, workflows and activities.

    Args:
        parts: what it is put together from; the connection to Temporal is no lazy one.
        provisioner: makes the workers of executions; started and closed here.
        settings: addresses and limits.
        workflow_runner: runs the workflows; by default without Temporal's sandbox, which the tests
            run them in (docs/adr/0014-workflows-run-without-the-sandbox.md).

    Raises:
        OperationalError: Postgres does not answer.
        RuntimeError: Temporal refuses the Temporal worker.
        RPCError: Temporal refuses the schedule of the sweeps.
    """
    registry, client, dispatcher = parts.registry, parts.temporal, parts.dispatcher
    task_queue = parts.temporal_settings.temporal_task_queue
    async with registry.autocommit() as session:
        deployment = await get_deployment(session)
    await provisioner.start(deployment, StoredBundles(registry, parts.pieces))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(provisioner.close)
        registry_activities = RegistryActivities(registry, dispatcher)
        deletion = DeletionActivities(registry, client, parts.pieces)
        changes = None
        if provisioner.follows_outcomes:
            changes = await stack.enter_async_context(Changes(registry))
        provisioning = ProvisioningActivities(
            provisioner,
            registry,
            WorkerAccess(api_url=settings.control_plane_api_url, tokens=parts.tokens),
            grace_seconds=settings.termination_grace_seconds,
            changes=changes,
        )
        sweep = SweepActivities(
            registry,
            dispatcher,
            WorkflowStates(client, task_queue=task_queue),
            provisioner,
            grace_seconds=settings.termination_grace_seconds,
        )
        control = Worker(
            client,
            task_queue=control_queue(task_queue),
            workflows=WORKFLOWS,
            activities=[
                registry_activities.open_execution,
                registry_activities.record_termination_signal,
                registry_activities.close_execution,
                registry_activities.end_waiting,
                registry_activities.set_aside_waiters,
                registry_activities.list_unprepared_functions,
                registry_activities.record_preparation_failure,
                deletion.cancel_project,
                deletion.delete_project_rows,
            ],
            workflow_runner=workflow_runner or UnsandboxedWorkflowRunner(),
            sticky_queue_schedule_to_start_timeout=_STICKY_TIMEOUT,
            max_concurrent_local_activities=min(_REGISTRY_CALLS, registry.pool_size),
            max_concurrent_workflow_tasks=_WORKFLOW_TASKS,
            graceful_shutdown_timeout=_GRACEFUL_SHUTDOWN,
        )
        queue = provisioner_queue(task_queue, provisioner.kind)
        sweep_steps = [
            sweep.compare_with_temporal,
            sweep.call_waiters,
            sweep.start_other_workflows,
            sweep.end_leftover_workers,
        ]

        def serving(task_queue: str, *activities: Callable[..., object], at_once: int) -> Worker:
            return Worker(
                client,
                task_queue=task_queue,
                activities=activities,
                max_concurrent_activities=at_once,
                graceful_shutdown_timeout=_GRACEFUL_SHUTDOWN,
            )

        terminate = provisioning.terminate_worker
        workers = [
            control,
            serving(
                queue,
                provisioning.prepare_function,
                provisioning.provision_worker,
                # Only for what was put on this queue before the others were there.
                terminate,
                *sweep_steps,
                at_once=_PROVISIONER_CALLS,
            ),
            serving(watch_queue(queue), provisioning.watch_worker, at_once=settings.max_workers),
            # As many as may be watched: a worker that does not end keeps no other from being ended.
            serving(termination_queue(queue), terminate, at_once=settings.max_workers),
            serving(sweep_queue(queue), *sweep_steps, at_once=_SWEEP_STEPS),
        ]
        for each in workers:
            await stack.enter_async_context(each)
        stack.push_async_callback(_shut_down, workers)
        if settings.sweep_interval_seconds:
            await keep_sweep_schedule(
                client,
                dispatcher.sweep_request(provisioner.kind),
                task_queue=task_queue,
                every=timedelta(seconds=settings.sweep_interval_seconds),
            )
        yield workers


async def _shut_down(workers: Sequence[Worker]) -> None:
    """Stop all at once: one after the other, each would take its time for short activities."""
    await asyncio.gather(*(each.shutdown() for each in workers))

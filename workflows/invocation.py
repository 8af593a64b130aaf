"""One invocation: its workflow id is the invocation id, each of its runs is one execution.

A run that ends in a retryable failure makes Temporal create the next run, by the retry policy that
the workflow was started with: that is the next execution. What becomes of the invocation is decided
in the registry (`close_execution`); this code carries it out and never lets two workers of one
invocation live at the same time.

The deadline (`core.deadline`) is enforced here, by `_keep_deadline`; a cancel arrives as the
cancellation of `run`. Both set `_interruption`, which every wait below looks at.
"""

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ApplicationErrorCategory,
    CancelledError,
    FailureError,
)
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from activities.provisioning import ProvisioningActivities
    from activities.registry import RegistryActivities
    from core.ids import ExecutionId, execution_id_of_run
    from core.messages import (
        Admission,
        CloseRequest,
        Decision,
        EndWaitingRequest,
        InterruptRequest,
        InvocationInput,
        OpenRequest,
        Verdict,
        WorkerExit,
        WorkerRef,
    )
    from core.states import Cause, InterruptReason, Phase
    from core.temporal.names import INVOCATION
    from core.temporal.queues import termination_queue, watch_queue
    from core.text import code_in_markdown, in_markdown
    from workflows.policies import PROVISIONER_RETRIES, REGISTRY_CALL
    from workflows.waking import wake_all


@workflow.defn(name=INVOCATION)
class InvocationWorkflow:
    """Runs one invocation to its end."""

    @workflow.init
    def __init__(self, input_: InvocationInput) -> None:
        self._input = input_
        # That of the execution at hand: another one than the invocation was started with, if its
        # function's pool is another one.
        self._provisioner_queue = input_.provisioner_queue
        self._execution_id = execution_id_of_run(workflow.info().run_id)
        self._interruption: InterruptReason | None = None
        self._wakes = 0

    @workflow.signal
    def wake(self) -> None:
        """A slot may be free, or the function is ready: ask again."""
        self._wakes += 1

    @workflow.run
    async def run(self, input_: InvocationInput) -> str:
        """Run one execution; returns the outcome, or fails so that Temporal runs the next."""
        attempt = asyncio.create_task(self._run_execution())
        deadline = asyncio.create_task(self._keep_deadline(input_.deadline))
        cancelled = False
        while not attempt.done():
            try:
                await asyncio.shield(attempt)
            except asyncio.CancelledError:
                # Temporal delivers a cancel once. A second one is the eviction of this workflow
                # from the Temporal worker's cache, and must get through.
                if cancelled or attempt.cancelled():
                    raise
                cancelled = True
                self._interruption = self._interruption or InterruptReason.CANCELLED
        deadline.cancel()
        decision = attempt.result()
        self._explain(f"**{decision.phase or 'Failed'}**: {in_markdown(decision.detail or '')}")
        return _conclude(decision, cancelled=cancelled)

    async def _keep_deadline(self, deadline: datetime) -> None:
        remaining = deadline - workflow.now()
        if remaining > timedelta(0):
            await workflow.sleep(remaining, summary="timeout of the invocation")
        self._interruption = self._interruption or InterruptReason.TIMED_OUT

    async def _run_execution(self) -> Decision:
        admission = await self._open()
        if admission.verdict is not Verdict.ADMITTED:
            return Decision(final=True, phase=admission.phase, detail=admission.detail)
        closing = await self._run_worker(admission)
        decision = await self._close(closing)
        if decision.final:
            return decision
        if decision.pause_seconds is not None:
            pause = timedelta(seconds=decision.pause_seconds)
            await self._wait_for_deadline_in(pause, decision.detail)
        if self._interruption is not None:
            # It came while the end of this attempt was being recorded, or just now.
            return await self._end_waiting(self._interruption)
        return decision

    async def _wait_for_deadline_in(self, pause: timedelta, detail: str | None) -> None:
        # In Temporal's back-off no code of this workflow runs, so nothing would keep the deadline.
        if workflow.now() + pause >= self._input.deadline:
            self._explain(f"**Queued**: {in_markdown(detail or '')}, which is after the timeout")
            await workflow.wait_condition(lambda: self._interruption is not None)

    async def _open(self) -> Admission:
        request = OpenRequest(
            invocation_id=self._input.invocation_id, execution_id=self._execution_id
        )
        while True:
            seen = self._wakes
            admission = await workflow.execute_local_activity_method(
                RegistryActivities.open_execution, request, **REGISTRY_CALL
            )
            self._provisioner_queue = admission.provisioner_queue or self._input.provisioner_queue
            await wake_all(admission.wake)
            match admission.verdict:
                case Verdict.ADMITTED | Verdict.OVER:
                    return admission
                case Verdict.STALE:
                    await self._end_stale(admission)
                case Verdict.WAIT:
                    self._explain(f"**Queued**: {in_markdown(admission.detail or '')}")
                    await self._wait_for_wake(seen, admission.ask_again_seconds)
                    if self._interruption is not None:
                        ended = await self._end_waiting(self._interruption)
                        return Admission(
                            verdict=Verdict.OVER, phase=ended.phase, detail=ended.detail
                        )

    async def _wait_for_wake(self, seen: int, ask_again_seconds: float | None) -> None:
        timeout = None if ask_again_seconds is None else timedelta(seconds=ask_again_seconds)
        try:
            await workflow.wait_condition(
                lambda: self._wakes > seen or self._interruption is not None,
                timeout=timeout,
                timeout_summary="ask again for a slot",
            )
        except TimeoutError:
            return

    async def _end_waiting(self, reason: InterruptReason) -> Decision:
        ended = await workflow.execute_local_activity_method(
            RegistryActivities.end_waiting,
            EndWaitingRequest(invocation_id=self._input.invocation_id, reason=reason),
            **REGISTRY_CALL,
        )
        await wake_all(ended.wake)
        return ended

    async def _end_stale(self, admission: Admission) -> None:
        """End what an earlier run left open: it was terminated or reset by hand, or lost."""
        execution_id, interrupt = admission.stale_execution_id, admission.interrupt
        if execution_id is None:
            return
        if interrupt is None:
            await self._terminate(execution_id)
        else:
            await self._interrupt(execution_id, interrupt, "an earlier run")
        worker_exit = await self._watch(execution_id)
        await self._close(
            CloseRequest(execution_id=execution_id, worker_exit=worker_exit, interrupted=interrupt)
        )

    async def _run_worker(self, admission: Admission) -> CloseRequest:
        attempt = f"attempt {admission.attempt} of {self._input.max_attempts}"
        self._explain(f"**Provisioning** the worker, {attempt}")
        error = await self._provision(attempt)
        if error is not None:
            return CloseRequest(
                execution_id=self._execution_id,
                provisioning_error=error,
                interrupted=self._interruption,
            )
        watch = self._watch(self._execution_id, summary=f"{attempt} runs")
        self._explain(f"**Running**, {attempt}, since {workflow.now():%Y-%m-%d %H:%M:%S} UTC")
        await workflow.wait_condition(lambda: watch.done() or self._interruption is not None)
        interrupted = None if watch.done() else self._interruption
        if interrupted is not None:
            await self._interrupt(self._execution_id, interrupted, attempt)
        worker_exit = await watch
        if (
            interrupted is not None
            and not worker_exit.worker_recorded
            and workflow.patched("2026-11-watch-a-worker-that-was-found-again")
        ):
            # It may have been found since, in order to end it. Its output is copied like others'.
            worker_exit = await self._watch(self._execution_id)
        return CloseRequest(
            execution_id=self._execution_id, worker_exit=worker_exit, interrupted=interrupted
        )

    async def _provision(self, attempt: str) -> str | None:
        """Get the worker made; returns why that is impossible, or None."""
        provision = workflow.start_activity_method(
            ProvisioningActivities.provision_worker,
            WorkerRef(execution_id=self._execution_id),
            task_queue=self._provisioner_queue,
            start_to_close_timeout=timedelta(minutes=5),
            heartbeat_timeout=timedelta(seconds=self._input.heartbeat_seconds),
            retry_policy=PROVISIONER_RETRIES,
            # After a cancel the call that is under way is waited for: it may have made a worker.
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=f"worker for {attempt}",
        )
        await workflow.wait_condition(lambda: provision.done() or self._interruption is not None)
        if not provision.done():
            provision.cancel()
        try:
            await provision
        except ActivityError as error:
            return self._definite_failure(error)
        return None

    def _definite_failure(self, error: ActivityError) -> str | None:
        """Say why no worker could be made; None if there may be one that is to be ended."""
        cause = error.cause
        if isinstance(cause, CancelledError):
            return None
        text = cause.message if isinstance(cause, FailureError) else str(error)
        is_final = isinstance(cause, ApplicationError) and cause.non_retryable
        if is_final or self._interruption is None:
            return text
        # After a cancel nothing is tried again: the last try has failed, or its Temporal worker has
        # died, and it is unknown how far it came.
        return None if workflow.patched("2026-11-provisioned-or-not") else text

    async def _interrupt(
        self, execution_id: ExecutionId, reason: InterruptReason, attempt: str
    ) -> None:
        word = "Cancelling" if reason is InterruptReason.CANCELLED else "Timed out"
        self._explain(f"**{word}**, {attempt}: waiting until the worker is gone")
        await workflow.execute_local_activity_method(
            RegistryActivities.record_termination_signal,
            InterruptRequest(execution_id=execution_id, reason=reason),
            **REGISTRY_CALL,
        )
        await self._terminate(execution_id)

    async def _terminate(self, execution_id: ExecutionId) -> None:
        await workflow.execute_activity_method(
            ProvisioningActivities.terminate_worker,
            WorkerRef(execution_id=execution_id),
            task_queue=termination_queue(self._provisioner_queue),
            start_to_close_timeout=timedelta(hours=2),
            heartbeat_timeout=timedelta(seconds=self._input.heartbeat_seconds),
            retry_policy=PROVISIONER_RETRIES,
            summary="end the worker",
        )

    def _watch(
        self, execution_id: ExecutionId, *, summary: str = "how the worker ended"
    ) -> workflow.ActivityHandle[WorkerExit]:
        return workflow.start_activity_method(
            ProvisioningActivities.watch_worker,
            WorkerRef(execution_id=execution_id),
            task_queue=watch_queue(self._provisioner_queue),
            # A worker may run as long as its function's timeout and then as long as it takes to
            # confirm its end. A dead Temporal worker is noticed by the heartbeat.
            start_to_close_timeout=timedelta(days=30),
            heartbeat_timeout=timedelta(seconds=self._input.heartbeat_seconds),
            retry_policy=PROVISIONER_RETRIES,
            cancellation_type=ActivityCancellationType.ABANDON,
            summary=summary,
        )

    async def _close(self, request: CloseRequest) -> Decision:
        decision = await workflow.execute_local_activity_method(
            RegistryActivities.close_execution,
            request.model_copy(update={"requested": self._interruption}),
            **REGISTRY_CALL,
        )
        await wake_all(decision.wake)
        return decision

    def _explain(self, text: str) -> None:
        # The server drops the static summary of a retried run; this is shown for each of them.
        workflow.set_current_details(f"{code_in_markdown(self._input.title)}\n\n{text}")


def _conclude(decision: Decision, *, cancelled: bool) -> str:
    """End the run as what it was: Completed, Canceled, Failed for good, or Failed with a retry."""
    if decision.final and decision.phase in {None, Phase.SUCCEEDED}:
        return str(decision.phase or "DELETED")
    if decision.phase is Phase.CANCELLED and cancelled:
        raise asyncio.CancelledError
    raise ApplicationError(
        decision.detail or "",
        type=str(decision.cause or decision.phase or Cause.WORKER_LOST),
        non_retryable=decision.final,
        # A user's function that fails is no fault of the control plane: no error-level log.
        category=ApplicationErrorCategory.BENIGN,
    )

"""What workflows and activities say to each other: one model in, one model out, ids only.

These models are recorded in Temporal's history, so fields are only ever added, with defaults.
No user data (input, output, error text beyond one line) goes in here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from core.ids import ExecutionId, FunctionId, InvocationId, ProjectId, VersionId
from core.retries import RetryPauses
from core.states import Cause, InterruptReason, Phase


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


@dataclass(frozen=True, kw_only=True)
class InvocationStart:
    """The facts about an invocation that its workflow is started with; not itself recorded."""

    invocation_id: InvocationId
    project_name: str
    version_id: VersionId
    function_name: str
    pool: str
    """Where the function's executions run."""
    created_at: datetime
    timeout_seconds: int
    max_retries: int
    pauses: RetryPauses


class InvocationInput(_Model):
    """Input of `InvocationWorkflow`."""

    invocation_id: InvocationId
    title: str
    """`function @ project`, for people who look at Temporal's UI."""
    deadline: datetime
    """When a worker that still runs is told to stop (see `core.deadline`)."""
    max_attempts: int
    """Executions that there may be at most: max_retries + 1."""
    provisioner_queue: str
    """Task queue of the provisioner's activities, where `Admission` names none."""
    heartbeat_seconds: float = 10.0
    """Seconds without a heartbeat after which an activity is run again elsewhere."""


class Verdict(StrEnum):
    """What `open_execution` decided."""

    ADMITTED = "admitted"
    """The execution row exists and holds a slot: provision its worker."""
    WAIT = "wait"
    """Ask again when woken, or after `ask_again_seconds`."""
    STALE = "stale"
    """An execution of an earlier run is still open: end and close it first, then ask again."""
    OVER = "over"
    """The invocation has ended; there will be no execution of this run."""


class OpenRequest(_Model):
    """Input of `open_execution`."""

    invocation_id: InvocationId
    execution_id: ExecutionId


class Admission(_Model):
    """Answer of `open_execution`."""

    verdict: Verdict
    attempt: int = 0
    """1 for the first execution of the invocation; with ADMITTED."""
    phase: Phase | None = None
    """The final phase; with OVER. None if the invocation's row is gone."""
    detail: str | None = None
    """Why it waits or ended, one line for a person."""
    ask_again_seconds: float | None = None
    stale_execution_id: ExecutionId | None = None
    interrupt: InterruptReason | None = None
    """With STALE: why the invocation is to end; None if it goes on."""
    pool: str | None = None
    """Where the execution runs: the admitted or the stale one."""
    provisioner_queue: str | None = None
    """Task queue of that pool's activities. Absent in old histories: the invocation's then."""
    wake: Sequence[str] = []
    """Workflow ids: queued invocations that a slot is free for now, the project's deletion."""


class InterruptRequest(_Model):
    """Input of `record_termination_signal`."""

    execution_id: ExecutionId
    reason: InterruptReason


class WorkerExit(_Model):
    """How a worker ended, as far as its provisioner knows."""

    exit_code: int | None = None
    cause: Cause | None = None
    detail: str | None = None
    worker_recorded: bool = True
    """False if the registry knew of no worker when this was said."""


class CloseRequest(_Model):
    """Input of `close_execution`."""

    execution_id: ExecutionId
    worker_exit: WorkerExit = WorkerExit()
    interrupted: InterruptReason | None = None
    """Set if the control plane ended the worker."""
    requested: InterruptReason | None = None
    """A cancel or the deadline that came meanwhile, even if the worker had ended by itself."""
    provisioning_error: str | None = None
    """Set if no worker could be made."""


class EndWaitingRequest(_Model):
    """Input of `end_waiting`: an invocation ends while it has no execution."""

    invocation_id: InvocationId
    reason: InterruptReason


class Decision(_Model):
    """Answer of `close_execution` and `end_waiting`."""

    final: bool
    """Whether the invocation is over; otherwise the next execution is to follow."""
    phase: Phase | None = None
    """The final phase of the invocation; None if there is a retry, or the row is gone."""
    cause: Cause | None = None
    detail: str | None = None
    wake: Sequence[str] = []
    """As in `Admission`."""
    pause_seconds: int | None = None
    """With a retry: the pause that Temporal makes before it."""


class WorkerRef(_Model):
    """Input of `provision_worker`, `watch_worker` and `terminate_worker`."""

    execution_id: ExecutionId


class PreparationInput(_Model):
    """Input of `VersionPreparationWorkflow`."""

    version_id: VersionId
    provisioner_queue: str
    """Task queue of the version's default pool, for a function that names none."""
    heartbeat_seconds: float = 10.0


class FunctionRef(_Model):
    """A function, with its name for the UI."""

    function_id: FunctionId
    function_name: str
    provisioner_queue: str | None = None
    """Task queue of its pool's activities. Absent in old histories: the version's then."""


class FunctionList(_Model):
    """Answer of `list_unprepared_functions`."""

    functions: list[FunctionRef]


class PreparationFailure(_Model):
    """Input of `record_preparation_failure`."""

    function_id: FunctionId
    error: str


class LostWaiters(_Model):
    """Input of `set_aside_waiters`: what was offered a slot, and has no workflow any more.

    Ids of other workflows are ignored.
    """

    invocation_ids: Sequence[str]


class WakeList(_Model):
    """Answer of an activity after which queued invocations are to ask again."""

    wake: Sequence[str] = []


class ProjectDeletionInput(_Model):
    """Input of `ProjectDeletionWorkflow`."""

    project_id: ProjectId
    project_name: str
    heartbeat_seconds: float = 10.0
    """Seconds without a heartbeat after which an activity is run again elsewhere."""
    deleted: int = 0
    """Invocations that earlier runs of the workflow have deleted."""
    look_again_seconds: float = 30.0
    """After which it looks whether anything still runs, although nothing has woken it."""


class ProjectCancelRequest(_Model):
    """Input of `cancel_project`."""

    project_id: ProjectId
    from_function: FunctionId | None = None
    """Where an earlier call has stopped; None to begin."""


class ProjectCancelProgress(_Model):
    """Answer of `cancel_project`."""

    ended: int = 0
    """Invocations without an open execution that were ended in this call."""
    running: int = 0
    """Invocations with an open execution: their workers are still to end."""
    next_function: FunctionId | None = None
    """Where to go on, if the call has used up its time; None if that was all."""


class ProjectRowsRequest(_Model):
    """Input of `delete_project_rows`."""

    project_id: ProjectId


class ProjectRowsProgress(_Model):
    """Answer of `delete_project_rows`."""

    invocations: int = 0
    """How many were deleted in this call."""
    complete: bool = True
    """Whether the project is gone. Otherwise: look again, as invocations may have arrived."""


class SweepRequest(_Model):
    """Input of `SweepWorkflow` and of its activities."""

    provisioner: str
    """The pool: only its rows are looked at."""
    provisioner_queue: str
    """Task queue of that pool's Temporal workers."""
    heartbeat_seconds: float = 10.0
    grace_seconds: float = 10.0
    """What has changed within so many seconds is left alone: it is being worked on."""
    leftover_grace_seconds: float = 300.0
    """Seconds after the end of an execution in which its worker is not taken for a leftover."""


class Repairs(_Model):
    """Answer of a sweep's activity."""

    counts: dict[str, int] = {}
    """What was repaired, in words for a person -> how often; nothing is not listed."""

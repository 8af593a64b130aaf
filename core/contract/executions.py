"""Executions: what workers report, and what the server says about them."""

from typing import Any, Self

from pydantic import Field, model_validator

from core.contract.base import ContractModel, EpochSeconds, ErrorText, ProgressObject, ValueText
from core.contract.functions import ExecutionSpec, ResourceSpec
from core.contract.workers import PreparedFunctionDetails, WorkerDetails
from core.states import Cause, FunctionStatus, Outcome, WorkerStatus


class ExecutionTemporaryResult(ContractModel):
    """A worker's report while it runs."""

    latest_output: ValueText
    """Replaces the execution's output."""


class ExecutionProgress(ContractModel):
    """A worker's report of how far it is."""

    progress: ProgressObject
    """Replaces the execution's progress. At most 16,384 characters as compact JSON."""


class ExecutionFinalResult(ContractModel):
    """A worker's last report."""

    outcome: Outcome
    final_output: ValueText | None = None
    """Replaces the execution's output; null keeps the last one."""
    error_message: ErrorText | None = None
    """Required for FAILED, refused for the other outcomes."""

    @model_validator(mode="after")
    def _check_error_message(self) -> Self:
        if self.outcome is Outcome.FAILED and self.error_message is None:
            raise ValueError("error_message must be given when outcome is FAILED")
        if self.outcome is not Outcome.FAILED and self.error_message is not None:
            raise ValueError(f"error_message must not be given when outcome is {self.outcome}")
        return self


class WorkerInfo(ContractModel):
    """The worker of an execution, whatever kind of compute it runs on."""

    provisioner: str
    """The kind of provisioner that made it."""
    id: str | None
    """The provisioner's own name for it (a process id, a container, ...)."""
    host: str | None
    """The machine it runs on, where that is known."""
    exit_code: int | None
    """Its exit status; 128 + signal number if a signal ended it; null if it runs or is unknown."""
    cause: Cause | None
    """Why the execution ended; null before that."""


class ExecutionSummary(ContractModel):
    """One attempt at an invocation."""

    execution_id: str
    worker_status: WorkerStatus
    worker_details: WorkerDetails | None
    """Null for the provisioners that are newer than this field; see `worker`."""
    termination_signal_sent: bool
    termination_signal_time: EpochSeconds | None
    """Epoch seconds at which the worker was told to stop, or null."""
    outcome: Outcome | None
    """What the worker reported; null on a TERMINATED worker means that it died without a word."""
    output: str | None
    """The final output, or the latest temporary one."""
    error_message: str | None
    creation_time: EpochSeconds
    """Epoch seconds."""
    last_update_time: EpochSeconds
    """Epoch seconds."""
    execution_start_time: EpochSeconds | None
    """Epoch seconds at which the worker reported its start, or null."""
    execution_finish_time: EpochSeconds | None
    """Epoch seconds at which the worker reported its outcome, or null."""
    attempt: int = Field(json_schema_extra={"minimum": 1})
    """1 for the first execution of an invocation."""
    cause: Cause | None
    """Why the execution ended; null while its worker is not TERMINATED."""
    worker: WorkerInfo | None
    """Null until a worker was provisioned."""
    progress: dict[str, Any] | None
    """What the worker has last reported about how far it is; null if nothing."""
    temporal_url: str | None
    """This execution's run in Temporal's web UI, where its address is configured."""


class ExecutionInfo(ExecutionSummary):
    """One attempt at an invocation, with all that its worker needs to know."""

    project_name: str
    version_id: str
    function_name: str
    invocation_id: str
    input: str
    """The invocation's input."""
    cancellation_requested: bool
    cancellation_request_time: EpochSeconds | None
    """Epoch seconds at which the invocation's cancellation was requested, or null."""
    resource_spec: ResourceSpec
    execution_spec: ExecutionSpec
    function_status: FunctionStatus
    prepared_function_details: PreparedFunctionDetails | None
    invocation_creation_time: EpochSeconds
    """Epoch seconds; the timeout counts from here."""


class ExecutionLogs(ContractModel):
    """A page of an execution's output."""

    project_name: str
    version_id: str
    function_name: str
    invocation_id: str
    execution_id: str
    log_lines: list[str]
    next_offset: str | None
    """Where to go on reading, also when there is nothing new yet; null once all has been read."""

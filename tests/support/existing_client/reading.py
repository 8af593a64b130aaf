"""How clients that exist read the API's answers, written from the contract alone.

Nothing here is imported from the server. The models are strict: a number that is not an integer, a
word that is not in an enumeration, a missing field or a null where none is allowed fails. Unknown
fields are ignored, since the contract may grow.
"""

from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class WorkerType(StrEnum):
    TEST = "TEST"
    AWS_ECS = "AWS_ECS"


class FunctionStatus(StrEnum):
    PENDING = "PENDING"
    READY = "READY"


class InvocationStatus(StrEnum):
    RUNNING = "RUNNING"
    TERMINATED = "TERMINATED"


class WorkerStatus(StrEnum):
    PENDING = "PENDING"
    PROVISIONING = "PROVISIONING"
    RUNNING = "RUNNING"
    TERMINATED = "TERMINATED"


class Outcome(StrEnum):
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    ABORTED = "ABORTED"


class Health(_Strict):
    status: str


class ResourceSpec(_Strict):
    virtual_cpus: float
    memory_gbs: float
    max_concurrency: int


class ExecutionSpec(_Strict):
    max_retries: int
    timeout_seconds: int


class PreparedFunctionDetails(_Strict):
    type: WorkerType
    identifier: str


class WorkerDetails(_Strict):
    type: WorkerType
    identifier: str
    logs_identifier: str


class ProjectInfo(_Strict):
    project_name: str
    creation_time: int
    deletion_request_time: int | None


class ProjectsList(_Strict):
    projects: list[ProjectInfo]


class FunctionInfoForVersion(_Strict):
    function_name: str
    docker_image: str
    resource_spec: ResourceSpec
    execution_spec: ExecutionSpec
    function_status: FunctionStatus
    prepared_function_details: PreparedFunctionDetails | None


class VersionInfo(_Strict):
    project_name: str
    version_id: str
    creation_time: int
    functions: list[FunctionInfoForVersion]


class VersionInfoForProject(_Strict):
    version_id: str
    creation_time: int


class VersionsListForProject(_Strict):
    project_name: str
    versions: list[VersionInfoForProject]


class ParentInvocationDefinition(_Strict):
    function_name: str
    invocation_id: str


class _Cancellable(_Strict):
    cancellation_requested: bool
    """Of the older generation of the API."""
    cancellation_request_time: int | None
    """Of the later one."""


class ParentInvocationInfo(_Cancellable):
    function_name: str
    invocation_id: str
    invocation_status: InvocationStatus
    creation_time: int
    last_update_time: int


class ExecutionSummary(_Strict):
    execution_id: str
    worker_status: WorkerStatus
    worker_details: WorkerDetails | None
    termination_signal_sent: bool
    """Of the older generation of the API."""
    termination_signal_time: int | None
    """Of the later one."""
    outcome: Outcome | None
    output: str | None
    error_message: str | None
    creation_time: int
    last_update_time: int
    execution_start_time: int | None
    execution_finish_time: int | None


class InvocationInfo(_Cancellable):
    project_name: str
    version_id: str
    function_name: str
    invocation_id: str
    parent_invocation: ParentInvocationInfo | None
    resource_spec: ResourceSpec
    execution_spec: ExecutionSpec
    function_status: FunctionStatus
    prepared_function_details: PreparedFunctionDetails | None
    input: str
    invocation_status: InvocationStatus
    creation_time: int
    last_update_time: int
    executions: list[ExecutionSummary]


class ExecutionInfo(ExecutionSummary, _Cancellable):
    project_name: str
    version_id: str
    function_name: str
    invocation_id: str
    input: str
    resource_spec: ResourceSpec
    execution_spec: ExecutionSpec
    function_status: FunctionStatus
    prepared_function_details: PreparedFunctionDetails | None
    invocation_creation_time: int


class InvocationInfoForFunction(_Cancellable):
    invocation_id: str
    parent_invocation: ParentInvocationDefinition | None
    invocation_status: InvocationStatus
    creation_time: int
    last_update_time: int


class InvocationsListForFunction(_Strict):
    project_name: str
    version_id: str
    function_name: str
    invocations: list[InvocationInfoForFunction]
    next_offset: str | None


class ExecutionLogs(_Strict):
    project_name: str
    version_id: str
    function_name: str
    invocation_id: str
    execution_id: str
    log_lines: list[str]
    next_offset: str | None


class Status(StrEnum):
    """What a client tells its user about an invocation."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED OUT"
    FAILED = "FAILED"

    @property
    def is_final(self) -> bool:
        """Whether a client stops asking."""
        return self in {Status.SUCCEEDED, Status.CANCELLED, Status.TIMED_OUT, Status.FAILED}


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """An invocation as a client shows it."""

    status: Status
    result: str | None
    error: str | None
    terminated: bool
    num_failed_attempts: int


def read(info: InvocationInfo) -> Invocation:
    """Give a client's view of an invocation."""
    executions = info.executions
    # The first of equals, so that two executions last changed in the same second would show.
    current = max(executions, key=lambda e: e.last_update_time, default=None)
    return Invocation(
        status=_status_of(info),
        result=None if current is None else current.output,
        error=None if current is None else current.error_message,
        terminated=info.invocation_status is InvocationStatus.TERMINATED,
        num_failed_attempts=sum(_has_failed(execution) for execution in executions),
    )


def _status_of(info: InvocationInfo) -> Status:
    """Judge by the first rule that fits."""
    executions = info.executions
    times_out_after = info.creation_time + info.execution_spec.timeout_seconds
    aborted = [execution for execution in executions if _is_aborted(execution)]
    terminated = info.invocation_status is InvocationStatus.TERMINATED
    rules = (
        (Status.SUCCEEDED, any(e.outcome is Outcome.SUCCEEDED for e in executions)),
        (
            Status.TIMED_OUT,
            any((e.termination_signal_time or 0) > times_out_after for e in aborted),
        ),
        (Status.CANCELLED, bool(aborted)),
        (
            Status.FAILED,
            sum(_has_failed(e) for e in executions) == info.execution_spec.max_retries + 1,
        ),
        (Status.TIMED_OUT, terminated and info.last_update_time > times_out_after),
        (Status.CANCELLED, terminated),
        (Status.CANCELLING, info.cancellation_request_time is not None),
        (Status.RUNNING, any(_runs(e) for e in executions)),
    )
    return next((status for status, fits in rules if fits), Status.PENDING)


def _ended_without_outcome(execution: ExecutionSummary) -> bool:
    return execution.worker_status is WorkerStatus.TERMINATED and execution.outcome is None


def _ended_before_it_started(execution: ExecutionSummary) -> bool:
    return (
        _ended_without_outcome(execution)
        and execution.termination_signal_time is not None
        and execution.execution_start_time is None
    )


def _is_aborted(execution: ExecutionSummary) -> bool:
    return execution.outcome is Outcome.ABORTED or _ended_before_it_started(execution)


def _has_failed(execution: ExecutionSummary) -> bool:
    return execution.outcome is Outcome.FAILED or (
        _ended_without_outcome(execution) and not _ended_before_it_started(execution)
    )


def _runs(execution: ExecutionSummary) -> bool:
    return (
        execution.worker_status is WorkerStatus.RUNNING
        and execution.execution_start_time is not None
        and execution.outcome is None
    )

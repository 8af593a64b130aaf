"""Invocations."""

from core.contract.base import CleanText, ContractModel, EpochSeconds, ValueText
from core.contract.executions import ExecutionSummary
from core.contract.functions import ExecutionSpec, ResourceSpec
from core.contract.workers import PreparedFunctionDetails
from core.states import FunctionStatus, InvocationStatus, Phase


class ParentInvocationDefinition(ContractModel):
    """The invocation that makes another one."""

    function_name: CleanText
    invocation_id: CleanText


class InvocationDefinition(ContractModel):
    """An invocation that is being created."""

    input: ValueText
    """Handed to the worker as it is."""
    parent_invocation: ParentInvocationDefinition | None = None
    """An invocation in the same project and version. When it is cancelled, this one is too."""


class ParentInvocationInfo(ContractModel):
    """The parent of an invocation."""

    function_name: str
    invocation_id: str
    cancellation_requested: bool
    cancellation_request_time: EpochSeconds | None
    """Epoch seconds, or null."""
    invocation_status: InvocationStatus
    creation_time: EpochSeconds
    """Epoch seconds."""
    last_update_time: EpochSeconds
    """Epoch seconds."""


class InvocationInfo(ContractModel):
    """One call of a function."""

    project_name: str
    version_id: str
    """The resolved id, also when the path said `latest`."""
    function_name: str
    invocation_id: str
    parent_invocation: ParentInvocationInfo | None
    resource_spec: ResourceSpec
    execution_spec: ExecutionSpec
    function_status: FunctionStatus
    prepared_function_details: PreparedFunctionDetails | None
    input: str
    cancellation_requested: bool
    cancellation_request_time: EpochSeconds | None
    """Epoch seconds of the first request to cancel, or null."""
    invocation_status: InvocationStatus
    """TERMINATED once its last execution has ended and its worker is gone."""
    creation_time: EpochSeconds
    """Epoch seconds; the timeout counts from here."""
    last_update_time: EpochSeconds
    """Epoch seconds; does not change after TERMINATED."""
    executions: list[ExecutionSummary]
    """Oldest first."""
    phase: Phase
    """Where it is, finer than `invocation_status`."""
    phase_detail: str | None
    """For a person: why it waits, why it ended."""
    queue_position: int | None
    """1 for the next invocation of the function to get a slot; null unless it is QUEUED.

    1000 stands for every place from there on.
    """
    temporal_url: str | None
    """This invocation's workflow in Temporal's web UI, where its address is configured."""


class ParentInvocationReference(ContractModel):
    """The parent of an invocation in a list."""

    function_name: str
    invocation_id: str


class InvocationSummary(ContractModel):
    """An invocation in a list."""

    invocation_id: str
    parent_invocation: ParentInvocationReference | None
    cancellation_requested: bool
    cancellation_request_time: EpochSeconds | None
    """Epoch seconds of the first request to cancel, or null."""
    invocation_status: InvocationStatus
    creation_time: EpochSeconds
    """Epoch seconds."""
    last_update_time: EpochSeconds
    """Epoch seconds."""
    phase: Phase
    phase_detail: str | None
    attempts: int
    """How many executions it has had so far."""
    temporal_url: str | None


class ChildInvocationSummary(InvocationSummary):
    """An invocation in a list of those that one invocation has made."""

    function_name: str


class ChildInvocationsList(ContractModel):
    """A page of the invocations that an invocation has made."""

    project_name: str
    version_id: str
    function_name: str
    """The function of the invocation that has made them."""
    invocation_id: str
    """The invocation that has made them."""
    invocations: list[ChildInvocationSummary]
    """Newest first."""
    next_offset: str | None
    """Pass it as `initial_offset` to get the next page; null on the last one."""


class InvocationsListForFunction(ContractModel):
    """A page of a function's invocations."""

    project_name: str
    version_id: str
    function_name: str
    invocations: list[InvocationSummary]
    """Newest first."""
    next_offset: str | None
    """Pass it as `initial_offset` to get the next page; null on the last one."""

"""What several answers show: times, links into Temporal's UI, and facts as typed arguments.

A fact that several models of the contract have stands in one `TypedDict`, which is unpacked into
each of them, so that mypy checks every field against the model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

from core.contract.functions import ExecutionSpec, ResourceSpec
from core.contract.workers import PreparedFunctionDetails
from core.ids import run_id_of_execution
from core.states import FunctionStatus, InvocationStatus, PreparationStatus
from core.temporal.client import workflow_ui_url
from registry.database.tables import Function, Invocation
from registry.queries.paths import FunctionContext


@dataclass(frozen=True, kw_only=True)
class Links:
    """Addresses in Temporal's web UI; None where that UI's address is not known."""

    temporal_ui_url: str | None
    temporal_namespace: str
    log_in: Callable[[str], str] | None = None
    """Makes an address that logs a browser in, from a path of the UI; None if it needs no login."""

    def opening(self, invocation_id: str | None) -> str | None:
        """Give an address that opens an invocation's page, or the list of all, with the login."""
        if self.temporal_ui_url is None:
            return None
        url = self.temporal_ui_url.rstrip("/")
        page = url if invocation_id is None else self.invocation(invocation_id)
        if page is None or self.log_in is None:
            return page
        return self.log_in(page.removeprefix(url) or "/")

    def invocation(self, invocation_id: str) -> str | None:
        """Address an invocation's workflow."""
        if self.temporal_ui_url is None:
            return None
        return workflow_ui_url(self.temporal_ui_url, self.temporal_namespace, invocation_id, None)

    def execution(self, invocation_id: str, execution_id: str) -> str | None:
        """Address an execution's run."""
        if self.temporal_ui_url is None:
            return None
        run_id = run_id_of_execution(execution_id)
        return workflow_ui_url(self.temporal_ui_url, self.temporal_namespace, invocation_id, run_id)


def epoch(time: datetime) -> int:
    """Give a time as whole epoch seconds, rounded down."""
    return int(time.timestamp())


def epoch_or_none(time: datetime | None) -> int | None:
    """Give a time as whole epoch seconds, if there is one."""
    return None if time is None else epoch(time)


class FunctionNames(TypedDict):
    """Where a function is."""

    project_name: str
    version_id: str
    function_name: str


def function_names(context: FunctionContext) -> FunctionNames:
    """Show where a function is."""
    return {
        "project_name": context.project.name,
        "version_id": context.version.id,
        "function_name": context.function.name,
    }


class FunctionFacts(TypedDict):
    """What a function's workers get, and whether it is prepared."""

    resource_spec: ResourceSpec
    execution_spec: ExecutionSpec
    function_status: FunctionStatus
    prepared_function_details: PreparedFunctionDetails | None


def function_facts(function: Function) -> FunctionFacts:
    """Show what a function's workers get, and whether it is prepared."""
    is_ready = function.preparation_status == PreparationStatus.READY
    details = function.prepared_details
    return {
        "resource_spec": ResourceSpec(
            virtual_cpus=function.virtual_cpus,
            memory_gbs=function.memory_gbs,
            max_concurrency=function.max_concurrency,
        ),
        "execution_spec": ExecutionSpec(
            max_retries=function.max_retries, timeout_seconds=function.timeout_seconds
        ),
        "function_status": FunctionStatus.READY if is_ready else FunctionStatus.PENDING,
        "prepared_function_details": None
        if details is None
        else PreparedFunctionDetails.model_validate(details),
    }


class Cancellation(TypedDict):
    """Whether an invocation is to be cancelled, and since when."""

    cancellation_requested: bool
    cancellation_request_time: int | None


def cancellation(invocation: Invocation) -> Cancellation:
    """Show whether an invocation is to be cancelled, and since when."""
    return {
        "cancellation_requested": invocation.cancellation_requested_at is not None,
        "cancellation_request_time": epoch_or_none(invocation.cancellation_requested_at),
    }


class InvocationState(Cancellation):
    """What every answer says about an invocation."""

    invocation_id: str
    invocation_status: InvocationStatus
    creation_time: int
    last_update_time: int


def invocation_state(invocation: Invocation) -> InvocationState:
    """Show what every answer says about an invocation."""
    return {
        **cancellation(invocation),
        "invocation_id": invocation.id,
        "invocation_status": invocation.status,
        "creation_time": epoch(invocation.created_at),
        "last_update_time": epoch(invocation.updated_at),
    }

"""From rows to the contract's objects."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.contract.executions import ExecutionInfo, ExecutionLogs, ExecutionSummary, WorkerInfo
from core.contract.functions import (
    ExecutionSpec,
    FunctionInfoForVersion,
    Preparation,
    ResourceSpec,
    RetrySpec,
)
from core.contract.invocations import (
    ChildInvocationsList,
    ChildInvocationSummary,
    InvocationInfo,
    InvocationsListForFunction,
    InvocationSummary,
    ParentInvocationInfo,
    ParentInvocationReference,
)
from core.contract.projects import ProjectInfo
from core.contract.versions import VersionInfo, VersionsListForProject, VersionSummary
from core.contract.workers import PreparedFunctionDetails, WorkerDetails
from core.ids import run_id_of_execution
from core.states import FunctionStatus, PreparationStatus
from core.temporal.client import workflow_ui_url
from registry.database.tables import Execution, Function, Project
from registry.explanations import shown_detail
from registry.queries.executions import ExecutionDetails
from registry.queries.invocation_pages import ChildPage, InvocationPage, ListedInvocation
from registry.queries.invocations import InvocationDetails, Parent
from registry.queries.logs import LogPage
from registry.queries.versions import VersionDetails, VersionList


@dataclass(frozen=True, kw_only=True)
class Links:
    """Addresses in Temporal's web UI; None where that UI's address is not known."""

    temporal_ui_url: str | None
    temporal_namespace: str

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


def project_info(project: Project) -> ProjectInfo:
    """Show a project."""
    return ProjectInfo(
        project_name=project.name,
        creation_time=epoch(project.created_at),
        deletion_request_time=epoch_or_none(project.deletion_requested_at),
    )


def version_info(details: VersionDetails) -> VersionInfo:
    """Show a version with its functions."""
    return VersionInfo(
        project_name=details.project.name,
        version_id=details.version.id,
        creation_time=epoch(details.version.created_at),
        functions=[
            _function_info(function, default_pool=details.version.default_pool)
            for function in details.functions
        ],
    )


def versions_list(details: VersionList) -> VersionsListForProject:
    """Show the versions of a project."""
    return VersionsListForProject(
        project_name=details.project.name,
        versions=[
            VersionSummary(version_id=version.id, creation_time=epoch(version.created_at))
            for version in details.versions
        ],
    )


def _function_info(function: Function, *, default_pool: str) -> FunctionInfoForVersion:
    return FunctionInfoForVersion(
        function_name=function.name,
        docker_image=function.docker_image,
        resource_spec=_resource_spec(function),
        execution_spec=_execution_spec(function),
        retry_spec=None if function.retry_spec is None else RetrySpec(**function.retry_spec),
        pool=function.pool or default_pool,
        function_status=_function_status(function),
        prepared_function_details=_prepared_details(function),
        preparation=Preparation(
            status=function.preparation_status, error=function.preparation_error
        ),
    )


def _resource_spec(function: Function) -> ResourceSpec:
    return ResourceSpec(
        virtual_cpus=function.virtual_cpus,
        memory_gbs=function.memory_gbs,
        max_concurrency=function.max_concurrency,
    )


def _execution_spec(function: Function) -> ExecutionSpec:
    return ExecutionSpec(max_retries=function.max_retries, timeout_seconds=function.timeout_seconds)


def _function_status(function: Function) -> FunctionStatus:
    ready = function.preparation_status == PreparationStatus.READY
    return FunctionStatus.READY if ready else FunctionStatus.PENDING


def _prepared_details(function: Function) -> PreparedFunctionDetails | None:
    details = function.prepared_details
    return None if details is None else PreparedFunctionDetails.model_validate(details)


def invocation_info(details: InvocationDetails, links: Links) -> InvocationInfo:
    """Show an invocation with its executions."""
    invocation, function = details.invocation, details.context.function
    return InvocationInfo(
        project_name=details.context.project.name,
        version_id=details.context.version.id,
        function_name=function.name,
        invocation_id=invocation.id,
        parent_invocation=None if details.parent is None else _parent_info(details.parent),
        resource_spec=_resource_spec(function),
        execution_spec=_execution_spec(function),
        function_status=_function_status(function),
        prepared_function_details=_prepared_details(function),
        input=invocation.input,
        cancellation_requested=invocation.cancellation_requested_at is not None,
        cancellation_request_time=epoch_or_none(invocation.cancellation_requested_at),
        invocation_status=invocation.status,
        creation_time=epoch(invocation.created_at),
        last_update_time=epoch(invocation.updated_at),
        executions=[
            ExecutionSummary(**_execution_facts(execution, links))
            for execution in details.executions
        ],
        phase=invocation.phase,
        phase_detail=shown_detail(invocation.phase, invocation.phase_detail, invocation.trouble),
        queue_position=details.queue_position,
        temporal_url=links.invocation(invocation.id),
    )


def _parent_info(parent: Parent) -> ParentInvocationInfo:
    invocation = parent.invocation
    return ParentInvocationInfo(
        function_name=parent.function_name,
        invocation_id=invocation.id,
        cancellation_requested=invocation.cancellation_requested_at is not None,
        cancellation_request_time=epoch_or_none(invocation.cancellation_requested_at),
        invocation_status=invocation.status,
        creation_time=epoch(invocation.created_at),
        last_update_time=epoch(invocation.updated_at),
    )


def invocations_list(page: InvocationPage, links: Links) -> InvocationsListForFunction:
    """Show a page of a function's invocations."""
    return InvocationsListForFunction(
        project_name=page.context.project.name,
        version_id=page.context.version.id,
        function_name=page.context.function.name,
        invocations=[InvocationSummary(**_summary_facts(entry, links)) for entry in page.entries],
        next_offset=None if page.next_offset is None else str(page.next_offset),
    )


def children_list(page: ChildPage, links: Links) -> ChildInvocationsList:
    """Show a page of the children of an invocation."""
    return ChildInvocationsList(
        project_name=page.context.project.name,
        version_id=page.context.version.id,
        function_name=page.context.function.name,
        invocation_id=page.parent_id,
        invocations=[
            ChildInvocationSummary(
                **_summary_facts(entry, links), function_name=entry.function_name
            )
            for entry in page.entries
        ],
        next_offset=None if page.next_offset is None else str(page.next_offset),
    )


def _summary_facts(entry: ListedInvocation, links: Links) -> dict[str, Any]:
    """Give what all summaries of invocations share."""
    invocation = entry.invocation
    parent = None
    if entry.invocation.parent_id is not None and entry.parent_function_name is not None:
        parent = ParentInvocationReference(
            function_name=entry.parent_function_name, invocation_id=entry.invocation.parent_id
        )
    return {
        "invocation_id": invocation.id,
        "parent_invocation": parent,
        "cancellation_requested": invocation.cancellation_requested_at is not None,
        "cancellation_request_time": epoch_or_none(invocation.cancellation_requested_at),
        "invocation_status": invocation.status,
        "creation_time": epoch(invocation.created_at),
        "last_update_time": epoch(invocation.updated_at),
        "phase": invocation.phase,
        "phase_detail": shown_detail(invocation.phase, invocation.phase_detail, invocation.trouble),
        "attempts": entry.attempts,
        "temporal_url": links.invocation(invocation.id),
    }


def execution_info(details: ExecutionDetails, links: Links) -> ExecutionInfo:
    """Show an execution with all that its worker needs to know."""
    invocation, function = details.invocation, details.context.function
    return ExecutionInfo(
        **_execution_facts(details.execution, links),
        project_name=details.context.project.name,
        version_id=details.context.version.id,
        function_name=function.name,
        invocation_id=invocation.id,
        input=invocation.input,
        cancellation_requested=invocation.cancellation_requested_at is not None,
        cancellation_request_time=epoch_or_none(invocation.cancellation_requested_at),
        resource_spec=_resource_spec(function),
        execution_spec=_execution_spec(function),
        function_status=_function_status(function),
        prepared_function_details=_prepared_details(function),
        invocation_creation_time=epoch(invocation.created_at),
    )


def _execution_facts(execution: Execution, links: Links) -> dict[str, Any]:
    """Give what `ExecutionSummary` and `ExecutionInfo` share."""
    details = execution.worker_details
    return {
        "execution_id": execution.id,
        "worker_status": execution.worker_status,
        "worker_details": None if details is None else WorkerDetails.model_validate(details),
        "termination_signal_sent": execution.termination_signal_at is not None,
        "termination_signal_time": epoch_or_none(execution.termination_signal_at),
        "outcome": execution.outcome,
        "output": execution.output,
        "error_message": execution.error_message,
        "creation_time": epoch(execution.created_at),
        "last_update_time": epoch(execution.updated_at),
        "execution_start_time": epoch_or_none(execution.started_at),
        "execution_finish_time": epoch_or_none(execution.finished_at),
        "attempt": execution.attempt,
        "cause": execution.cause,
        "worker": _worker_info(execution),
        "progress": execution.progress,
        "temporal_url": links.execution(execution.invocation_id, execution.id),
    }


def _worker_info(execution: Execution) -> WorkerInfo | None:
    if execution.worker is None:
        return None
    worker_id, host = execution.worker.get("id"), execution.worker.get("host")
    return WorkerInfo(
        provisioner=execution.pool,
        id=None if worker_id is None else str(worker_id),
        host=None if host is None else str(host),
        exit_code=execution.exit_code,
        cause=execution.cause,
    )


def execution_logs(details: ExecutionDetails, page: LogPage) -> ExecutionLogs:
    """Show a page of an execution's output."""
    return ExecutionLogs(
        project_name=details.context.project.name,
        version_id=details.context.version.id,
        function_name=details.context.function.name,
        invocation_id=details.invocation.id,
        execution_id=details.execution.id,
        log_lines=list(page.lines),
        next_offset=None if page.next_offset is None else str(page.next_offset),
    )

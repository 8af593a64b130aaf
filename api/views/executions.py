"""Executions and their logs, as the contract shows them."""

from typing import TypedDict

from api.views.shared import (
    Links,
    cancellation,
    epoch,
    epoch_or_none,
    function_facts,
    function_names,
)
from core.contract.base import ProgressObject
from core.contract.executions import ExecutionInfo, ExecutionLogs, ExecutionSummary, WorkerInfo
from core.contract.workers import WorkerDetails
from core.states import Cause, Outcome, WorkerStatus
from registry.database.tables import Execution
from registry.queries.executions import ExecutionDetails
from registry.queries.logs import LogPage


def execution_info(details: ExecutionDetails, links: Links) -> ExecutionInfo:
    """Show an execution with all that its worker needs to know."""
    invocation = details.invocation
    return ExecutionInfo(
        **function_names(details.context),
        **function_facts(details.context.function),
        **cancellation(invocation),
        **_execution_facts(details.execution, links),
        invocation_id=invocation.id,
        input=invocation.input,
        invocation_creation_time=epoch(invocation.created_at),
    )


def execution_summary(execution: Execution, links: Links) -> ExecutionSummary:
    """Show an execution among the others of its invocation."""
    return ExecutionSummary(**_execution_facts(execution, links))


class _ExecutionFacts(TypedDict):
    """What both of them show."""

    execution_id: str
    worker_status: WorkerStatus
    worker_details: WorkerDetails | None
    termination_signal_sent: bool
    termination_signal_time: int | None
    outcome: Outcome | None
    output: str | None
    error_message: str | None
    creation_time: int
    last_update_time: int
    execution_start_time: int | None
    execution_finish_time: int | None
    attempt: int
    cause: Cause | None
    worker: WorkerInfo | None
    progress: ProgressObject | None
    temporal_url: str | None


def _execution_facts(execution: Execution, links: Links) -> _ExecutionFacts:
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
        **function_names(details.context),
        invocation_id=details.invocation.id,
        execution_id=details.execution.id,
        log_lines=list(page.lines),
        next_offset=None if page.next_offset is None else str(page.next_offset),
    )

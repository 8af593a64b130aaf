"""What is left when all is over: in the registry, in Temporal, in the functions' own records."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from psycopg.rows import class_row
from temporalio.client import Client, WorkflowExecutionStatus

from core.settings import RegistrySettings
from core.temporal.names import INVOCATION
from tests.support.servers import connect

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class InvocationRow:
    """An invocation as the registry has it."""

    id: str
    function: str
    parent_id: str | None
    idempotency_key: str | None
    status: str
    phase: str
    detail: str | None


@dataclass(frozen=True, kw_only=True)
class ExecutionRow:
    """An execution as the registry has it."""

    id: str
    invocation_id: str
    function: str
    attempt: int
    worker_status: str
    outcome: str | None
    cause: str | None
    output: str | None
    error_message: str | None
    created_at: datetime
    terminated_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as Temporal has it."""

    workflow_id: str
    run_id: str
    status: WorkflowExecutionStatus
    started_at: datetime


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that is known about one control plane's invocations."""

    invocations: Mapping[str, InvocationRow]
    """By id."""
    executions: Mapping[str, Sequence[ExecutionRow]]
    """By invocation, in the order of their attempts."""
    logs: Mapping[str, Sequence[str]]
    """The lines of each execution."""
    runs: Mapping[str, Sequence[Run]]
    """By workflow id, oldest first; of invocations only."""
    marks: Mapping[str, Sequence[Json]]
    """What the functions have recorded, by invocation."""
    breaches: Sequence[str]
    """What they have recorded as wrong."""


_INVOCATIONS = """
    SELECT i.id, f.name AS function, i.parent_id, i.idempotency_key, i.status, i.phase,
           i.phase_detail AS detail
    FROM invocations i JOIN functions f ON f.id = i.function_id
"""
_EXECUTIONS = """
    SELECT e.id, e.invocation_id, f.name AS function, e.attempt, e.worker_status, e.outcome,
           e.cause, e.output, e.error_message, e.created_at, e.terminated_at
    FROM executions e JOIN functions f ON f.id = e.function_id
    ORDER BY e.invocation_id, e.attempt
"""
_LINES = """
    SELECT execution_id, line
    FROM log_chunks, unnest(lines) WITH ORDINALITY AS l(line, n)
    ORDER BY execution_id, first_line, n
"""


async def gather_evidence(
    registry: RegistrySettings, temporal: Client, *, control_queue: str, marks: Path
) -> Evidence:
    """Read everything."""
    executions = defaultdict(list)
    logs = defaultdict(list)
    with connect(registry, database=registry.postgres_db) as connection:
        with connection.cursor(row_factory=class_row(InvocationRow)) as rows:
            invocations = {row.id: row for row in rows.execute(_INVOCATIONS)}
        with connection.cursor(row_factory=class_row(ExecutionRow)) as rows:
            for row in rows.execute(_EXECUTIONS):
                executions[row.invocation_id].append(row)
        for execution_id, line in connection.execute(_LINES):
            logs[execution_id].append(line)
    runs = defaultdict(list)
    query = f'TaskQueue = "{control_queue}" AND WorkflowType = "{INVOCATION}"'
    async for run in temporal.list_workflows(query):
        assert run.status is not None
        runs[run.id].append(
            Run(
                workflow_id=run.id,
                run_id=run.run_id,
                status=run.status,
                started_at=run.execution_time or run.start_time,
            )
        )
    for listed in runs.values():
        listed.sort(key=lambda run: run.started_at)
    return Evidence(
        invocations=invocations,
        executions=executions,
        logs=logs,
        runs=runs,
        marks=_marks_in(marks),
        breaches=_breaches_in(marks),
    )


def _marks_in(folder: Path) -> dict[str, Sequence[Json]]:
    # Beside a file of an invocation lies its lock.
    return {path.name: _read_marks(path) for path in folder.glob("inv-*") if not path.suffix}


def _breaches_in(folder: Path) -> list[str]:
    return [str(breach) for path in folder.glob("breaches") for breach in _read_marks(path)]


def _read_marks(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def count_open_workflows(temporal: Client, *, control_queue: str) -> int:
    """Count the invocations' workflows that have not ended."""
    query = (
        f'TaskQueue = "{control_queue}" AND WorkflowType = "{INVOCATION}" '
        'AND ExecutionStatus = "Running"'
    )
    return (await temporal.count_workflows(query)).count

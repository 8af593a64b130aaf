"""What must hold at the end, whatever went wrong. Each check gives a line for each breach."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from temporalio.client import WorkflowExecutionStatus

from core.ids import run_id_of_execution
from core.states import InvocationStatus, Outcome, Phase, WorkerStatus
from tests.proofs.chaos.evidence import Evidence
from tests.proofs.chaos.load import Accepted
from tests.proofs.chaos.tasks import LIMITS, Task
from tests.support.intervals import most_at_once

_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What was accepted, and what is known of it."""

    accepted: Sequence[Accepted]
    evidence: Evidence

    def tasks(self) -> Iterator[tuple[Task, str]]:
        """Give each task with the id of its invocation, those called by functions too."""
        by_key = {row.idempotency_key: row.id for row in self.evidence.invocations.values()}
        for one in self.accepted:
            yield one.task, one.invocation_id
            for child in one.task.children:
                if child.key in by_key:
                    yield child, by_key[child.key]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One invariant, and how it came out."""

    invariant: str
    checked: int
    """How many things were looked at."""
    breaches: Sequence[str]


def check(case: Case) -> list[Finding]:
    """Check all invariants that registry, Temporal and the functions' records can prove."""
    findings = []
    for invariant, check_one in _CHECKS.items():
        results = list(check_one(case))
        findings.append(
            Finding(
                invariant=invariant,
                checked=len(results),
                breaches=[breach for breach in results if breach is not None],
            )
        )
    return findings


Results = Iterable[str | None]
"""For each thing that was looked at None, or what is wrong with it."""


def _all_ended_as_written(case: Case) -> Results:
    for task, invocation_id in case.tasks():
        row = case.evidence.invocations.get(invocation_id)
        if row is None:
            yield f"{task.key}: accepted as {invocation_id}, and there is no such row"
            continue
        executions = case.evidence.executions.get(invocation_id, [])
        outcomes = [execution.outcome for execution in executions]
        seen = f"{row.status} {row.phase} {outcomes} ({row.detail})"
        if row.status != InvocationStatus.TERMINATED or row.phase != task.phase:
            yield f"{task.key}: {invocation_id} should be {task.phase}, and is {seen}"
        elif task.outcomes is not None and outcomes != task.outcomes:
            yield f"{task.key}: {invocation_id} should have {task.outcomes}, and is {seen}"
        elif task.outcomes is None and len(executions) > 1:
            yield f"{task.key}: {invocation_id} was tried again: {seen}"
        else:
            yield None


def _all_are_known(case: Case) -> Results:
    """Nothing is in the registry twice, or without having been asked for."""
    expected = {task.key for one in case.accepted for task in (one.task, *one.task.children)}
    keys = Counter(row.idempotency_key for row in case.evidence.invocations.values())
    for row in case.evidence.invocations.values():
        if row.idempotency_key not in expected:
            yield f"{row.id} was not asked for: {row.idempotency_key}"
        elif keys[row.idempotency_key] > 1:
            yield f"{row.idempotency_key} is there more than once"
        else:
            yield None


def _never_two_at_once(case: Case) -> Results:
    yield from case.evidence.breaches
    for executions in case.evidence.executions.values():
        for earlier, later in pairwise(executions):
            ended = earlier.terminated_at
            if ended is None or ended > later.created_at:
                yield f"{later.id} was made before the end of {earlier.id}"
            elif earlier.outcome == Outcome.SUCCEEDED:
                yield f"{later.id} was made after the success of {earlier.id}"
            else:
                yield None
    for invocation_id, marks in case.evidence.marks.items():
        begun = [mark["execution"] for mark in marks if mark["what"] == "begun"]
        known = {row.id for row in case.evidence.executions.get(invocation_id, [])}
        if len(set(begun)) < len(begun) or not known.issuperset(begun):
            yield f"{invocation_id}: begun were {begun}, in the registry are {known}"
        else:
            yield None


def _limits_are_kept(case: Case) -> Results:
    for function, limit in LIMITS.items():
        most = most_at_once(
            (row.created_at, row.terminated_at or _NEVER)
            for executions in case.evidence.executions.values()
            for row in executions
            if row.function == function
        )
        yield f"{most} executions of {function} were open at once" if most > limit else None


def _no_slot_is_left(case: Case) -> Results:
    for executions in case.evidence.executions.values():
        for row in executions:
            if row.worker_status != WorkerStatus.TERMINATED:
                yield f"{row.id} of {row.function} still has a slot: {row.worker_status}"
            else:
                yield None


def _results_are_complete(case: Case) -> Results:
    for task, invocation_id in case.tasks():
        executions = case.evidence.executions.get(invocation_id, [])
        if task.phase is Phase.SUCCEEDED and executions:
            output = executions[-1].output
            if output is None or json.loads(output) != task.output:
                yield f"{task.key}: {executions[-1].id} should have {task.output}, has {output}"
            else:
                yield None


def _acknowledged_updates_are_there(case: Case) -> Results:
    for invocation_id, marks in case.evidence.marks.items():
        acknowledged = {
            mark["execution"]: mark["step"] for mark in marks if mark["what"] == "acknowledged"
        }
        for row in case.evidence.executions.get(invocation_id, []):
            if row.id in acknowledged:
                step = acknowledged[row.id]
                output = json.loads(row.output or "{}")
                if output.get("step", 0) < step:
                    yield f"{row.id}: step {step} was acknowledged, and there is {row.output}"
                else:
                    yield None


def _logs_are_complete(case: Case) -> Results:
    for task, invocation_id in case.tasks():
        # A worker that was ended from outside may have been so before it printed.
        printed = {
            mark["execution"]
            for mark in case.evidence.marks.get(invocation_id, [])
            if mark["what"] == "printed"
        }
        begun = [
            mark["execution"]
            for mark in case.evidence.marks.get(invocation_id, [])
            if mark["what"] == "begun"
        ]
        for number, execution_id in enumerate(begun):
            if execution_id not in printed or number >= len(task.lines):
                continue
            lines = case.evidence.logs.get(execution_id, [])
            own = [line for line in lines if line.startswith(f"{task.key} line ")]
            if own == task.lines[number]:
                yield None
            else:
                yield f"{task.key}: {execution_id} printed {task.lines[number]}, kept is {own}"


def _temporal_agrees(case: Case) -> Results:
    evidence = case.evidence
    for row in evidence.invocations.values():
        runs = evidence.runs.get(row.id, [])
        executions = evidence.executions.get(row.id, [])
        if not runs:
            # Ended before Temporal had heard of it.
            ended_early = row.phase == Phase.CANCELLED and not executions
            yield None if ended_early else f"{row.id}: {row.phase}, and Temporal knows nothing"
            continue
        run_ids = {run.run_id for run in runs}
        lost = [one.id for one in executions if run_id_of_execution(one.id) not in run_ids]
        if lost:
            yield f"{row.id}: {lost} are no runs of its workflow"
        elif runs[-1].status not in _STATUSES_OF_PHASE.get(row.phase, ()):
            yield f"{row.id}: {row.phase} in the registry, {runs[-1].status.name} in Temporal"
        else:
            yield None
    for workflow_id in evidence.runs.keys() - evidence.invocations.keys():
        yield f"{workflow_id}: a workflow without a row"


_STATUSES_OF_PHASE: Mapping[str, tuple[WorkflowExecutionStatus, ...]] = {
    Phase.SUCCEEDED: (WorkflowExecutionStatus.COMPLETED,),
    Phase.FAILED: (WorkflowExecutionStatus.FAILED,),
    Phase.TIMED_OUT: (WorkflowExecutionStatus.FAILED,),
    # FAILED if the registry knew of the cancel before the workflow did.
    Phase.CANCELLED: (WorkflowExecutionStatus.CANCELED, WorkflowExecutionStatus.FAILED),
}


def _children_end_with_their_parents(case: Case) -> Results:
    for row in case.evidence.invocations.values():
        parent = case.evidence.invocations.get(row.parent_id or "")
        if parent is None:
            continue
        if parent.phase == Phase.CANCELLED and row.phase != Phase.CANCELLED:
            yield f"{row.id} is {row.phase}, its parent {parent.id} CANCELLED"
        else:
            yield None


_CHECKS: Mapping[str, Callable[[Case], Results]] = {
    "every accepted invocation has ended as it was written down": _all_ended_as_written,
    "nothing was done twice, and nothing that was not asked for": _all_are_known,
    "no two executions of an invocation ran at once; a success is the last": _never_two_at_once,
    "the concurrency limit was kept": _limits_are_kept,
    "no slot is left in use": _no_slot_is_left,
    "results are there, byte for byte": _results_are_complete,
    "acknowledged updates are there": _acknowledged_updates_are_there,
    "logs of workers that have ended are complete": _logs_are_complete,
    "children of a cancelled invocation are cancelled": _children_end_with_their_parents,
    "registry and Temporal agree": _temporal_agrees,
}

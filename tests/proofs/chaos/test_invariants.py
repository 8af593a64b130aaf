"""The checks see what is wrong: each case here is a good one with one thing spoilt."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from temporalio.client import WorkflowExecutionStatus

from core.ids import execution_id_of_run
from core.states import Outcome, Phase
from tests.proofs.chaos.evidence import Evidence, ExecutionRow, InvocationRow, Run
from tests.proofs.chaos.invariants import Case, check
from tests.proofs.chaos.load import Accepted
from tests.proofs.chaos.tasks import LIMIT, Task

Json = dict[str, Any]
BEGAN = datetime(2026, 11, 25, tzinfo=UTC)
RUNS = [str(UUID(int=number)) for number in range(10)]
FIRST, SECOND, *MORE = (execution_id_of_run(run) for run in RUNS)


@dataclass
class Draft:
    """A call that failed once and then succeeded, in pieces that can be spoilt."""

    task: Task = field(
        default_factory=lambda: Task(
            key="key",
            function="limited",
            argument={},
            phase=Phase.SUCCEEDED,
            outcomes=[Outcome.FAILED, Outcome.SUCCEEDED],
            output={"step": 2},
            lines=[["key line 0 of execution 0"], []],
        )
    )
    invocations: dict[str, InvocationRow] = field(
        default_factory=lambda: {"inv-1": invocation("inv-1")}
    )
    executions: list[ExecutionRow] = field(
        default_factory=lambda: [
            execution(FIRST, attempt=1, outcome=Outcome.FAILED, output='{"step": 1}'),
            execution(SECOND, attempt=2, outcome=Outcome.SUCCEEDED, output='{"step": 2}'),
        ]
    )
    lines: dict[str, list[str]] = field(
        default_factory=lambda: {
            FIRST: ["control-plane: a word of the runner", "key line 0 of execution 0"]
        }
    )
    runs: list[Run] = field(
        default_factory=lambda: [
            run(RUNS[0], status=WorkflowExecutionStatus.FAILED),
            run(RUNS[1], status=WorkflowExecutionStatus.COMPLETED),
        ]
    )
    marks: list[Json] = field(
        default_factory=lambda: [
            {"what": "begun", "execution": FIRST},
            {"what": "printed", "execution": FIRST},
            {"what": "acknowledged", "execution": FIRST, "step": 1},
            {"what": "begun", "execution": SECOND},
        ]
    )
    breaches: list[str] = field(default_factory=list)

    def broken(self) -> list[str]:
        """Give the invariants that do not hold."""
        case = Case(
            accepted=[Accepted(task=self.task, invocation_id="inv-1", posted_at=0)],
            evidence=Evidence(
                invocations=self.invocations,
                executions={"inv-1": self.executions},
                logs=self.lines,
                runs={"inv-1": self.runs} if self.runs else {},
                marks={"inv-1": self.marks},
                breaches=self.breaches,
            ),
        )
        return [finding.invariant for finding in check(case) if finding.breaches]


def invocation(invocation_id: str, **fields: Any) -> InvocationRow:
    row = InvocationRow(
        id=invocation_id,
        function="limited",
        parent_id=None,
        idempotency_key="key",
        status="TERMINATED",
        phase="SUCCEEDED",
        detail=None,
    )
    return replace(row, **fields)


def execution(execution_id: str, *, attempt: int, outcome: Outcome, output: str) -> ExecutionRow:
    began = BEGAN + timedelta(seconds=attempt)
    return ExecutionRow(
        id=execution_id,
        invocation_id="inv-1",
        function="limited",
        attempt=attempt,
        worker_status="TERMINATED",
        outcome=outcome,
        cause=None,
        output=output,
        error_message=None,
        created_at=began,
        terminated_at=began + timedelta(seconds=0.5),
    )


def run(run_id: str, *, status: WorkflowExecutionStatus) -> Run:
    return Run(workflow_id="inv-1", run_id=run_id, status=status, started_at=BEGAN)


def change(draft: Draft, number: int, **fields: Any) -> None:
    draft.executions[number] = replace(draft.executions[number], **fields)


def test_a_good_case_has_no_breach() -> None:
    assert Draft().broken() == []


ENDED = "every accepted invocation has ended as it was written down"
ONCE = "nothing was done twice, and nothing that was not asked for"
ALONE = "no two executions of an invocation ran at once; a success is the last"
LIMITED = "the concurrency limit was kept"
FREE = "no slot is left in use"
COMPLETE = "results are there, byte for byte"
UPDATES = "acknowledged updates are there"
LOGS = "logs of workers that have ended are complete"
AGREE = "registry and Temporal agree"
CHILDREN = "children of a cancelled invocation are cancelled"


def spoil_row(**fields: Any) -> Callable[[Draft], None]:
    return lambda draft: draft.invocations.update({"inv-1": invocation("inv-1", **fields)})


def too_many_at_once(draft: Draft) -> None:
    first = draft.executions[0]
    extra = [replace(first, id=MORE[number], attempt=0) for number in range(LIMIT)]
    draft.executions[:0] = extra


@pytest.mark.parametrize(
    ("spoil", "invariant"),
    [
        pytest.param(lambda draft: draft.invocations.clear(), ENDED, id="lost"),
        pytest.param(spoil_row(status="RUNNING"), ENDED, id="not over"),
        pytest.param(spoil_row(phase="FAILED"), ENDED, id="another phase"),
        pytest.param(lambda draft: draft.executions.pop(0), ENDED, id="an execution too few"),
        pytest.param(
            lambda draft: draft.invocations.update({"inv-2": invocation("inv-2")}),
            ONCE,
            id="made twice",
        ),
        pytest.param(spoil_row(idempotency_key="strange"), ONCE, id="not asked for"),
        pytest.param(lambda draft: draft.breaches.append("two ran"), ALONE, id="a lock was held"),
        pytest.param(
            lambda draft: change(draft, 0, terminated_at=BEGAN + timedelta(seconds=3)),
            ALONE,
            id="overlap",
        ),
        pytest.param(
            lambda draft: change(draft, 0, outcome=Outcome.SUCCEEDED), ALONE, id="after success"
        ),
        pytest.param(
            lambda draft: draft.marks.append({"what": "begun", "execution": SECOND}),
            ALONE,
            id="begun twice",
        ),
        pytest.param(
            lambda draft: draft.marks.append({"what": "begun", "execution": "exe-unknown"}),
            ALONE,
            id="begun without a row",
        ),
        pytest.param(too_many_at_once, LIMITED, id="over the limit"),
        pytest.param(lambda draft: change(draft, 1, worker_status="RUNNING"), FREE, id="slot"),
        pytest.param(lambda draft: change(draft, 1, output='{"step": 1}'), COMPLETE, id="result"),
        pytest.param(lambda draft: change(draft, 1, output=None), COMPLETE, id="no result"),
        pytest.param(lambda draft: change(draft, 0, output=None), UPDATES, id="update"),
        pytest.param(lambda draft: draft.lines[FIRST].pop(), LOGS, id="a line is missing"),
        pytest.param(
            lambda draft: draft.lines[FIRST].append("key line 0 of execution 0"),
            LOGS,
            id="a line is doubled",
        ),
        pytest.param(lambda draft: draft.runs.clear(), AGREE, id="no workflow"),
        pytest.param(lambda draft: draft.runs.pop(0), AGREE, id="an execution without a run"),
        pytest.param(lambda draft: draft.runs.pop(), AGREE, id="the last run failed"),
        pytest.param(
            lambda draft: draft.invocations.update(
                {
                    "inv-0": invocation("inv-0", phase="CANCELLED"),
                    "inv-1": invocation("inv-1", parent_id="inv-0"),
                }
            ),
            CHILDREN,
            id="a child goes on",
        ),
    ],
)
def test_what_is_spoilt_is_seen(spoil: Callable[[Draft], object], invariant: str) -> None:
    draft = Draft()
    spoil(draft)

    assert invariant in draft.broken()


def test_results_are_compared_as_they_are() -> None:
    draft = Draft()
    draft.task = replace(draft.task, output={"text": "\u2028\U0001f600"})
    change(draft, 1, output=json.dumps({"text": "\u2028"}))

    assert COMPLETE in draft.broken()

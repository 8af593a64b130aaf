"""The recorded histories together go through every statement of the workflows."""

import ast
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

import workflows
from tests.replay.history_files import read_history
from tests.replay.test_replay import RECORDED
from worker.build import WORKFLOWS

FOLDER = Path(workflows.__path__[0]).resolve()

UNRECORDED = {
    # An eviction from the Temporal worker's cache is no event of a history.
    "invocation.py, run: raise",
    # There is no such answer; it is for the type checker.
    "invocation.py, _end_stale: return",
    # These need more invocations, or a longer history, than a file should hold.
    (
        "project_deletion.py, _cancel_all: self._explain("
        'f"**Cancelling**: {ended} waiting invocations ended")'
    ),
    (
        "project_deletion.py, run: workflow.continue_as_new("
        'deletion.model_copy(update={"deleted": self._deleted}))'
    ),
}
"""The statements that no history goes through: file, function and text."""

Lines = dict[str, set[int]]


@contextmanager
def traced() -> Iterator[Lines]:
    """Note the lines of the workflows that are run by threads that start during the block."""
    seen: Lines = defaultdict(set)

    def in_workflows(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            seen[Path(frame.f_code.co_filename).name].add(frame.f_lineno)
        return in_workflows

    def anywhere(frame: FrameType, _event: str, _: Any) -> Any:
        return in_workflows if frame.f_code.co_filename.startswith(str(FOLDER)) else None

    before = threading.gettrace()
    threading.settrace(anywhere)
    try:
        yield seen
    finally:
        threading.settrace(before)


def simple_statements(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """Give the statements within functions that hold no others, without docstrings."""
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            if not isinstance(node, ast.stmt) or hasattr(node, "body"):
                continue
            if isinstance(node, ast.Match):
                continue
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue
            yield function.name, node


async def test_the_histories_go_through_every_statement_of_the_workflows() -> None:
    """One that is missing asks for a case in `record.py`: see CONTRIBUTING, workflow code."""
    replayer = Replayer(
        workflows=WORKFLOWS,
        data_converter=pydantic_data_converter,
        # The sandbox, which the other tests have, would import the code again for each history.
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    with traced() as seen:
        for path in RECORDED:
            await replayer.replay_workflow(read_history(path))
    missing = set()
    count = 0
    for path in FOLDER.glob("*.py"):
        text = path.read_text()
        for function, statement in simple_statements(path):
            count += 1
            end = statement.end_lineno or statement.lineno
            if not seen[path.name].intersection(range(statement.lineno, end + 1)):
                source = ast.get_source_segment(text, statement)
                missing.add(f"{path.name}, {function}: {source}")
    assert count > 100
    assert missing == UNRECORDED

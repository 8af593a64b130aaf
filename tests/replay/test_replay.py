"""Histories that were recorded once must replay for ever: they stand for what is under way.

A failure here asks for `workflow.patched` in the workflow, never for a new recording.
"""

import base64
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from tests.replay.history_files import HISTORIES, RECORDER, read_history
from worker.build import WORKFLOWS

RECORDED = sorted(HISTORIES.glob("*/*.json"))
SUCCESS = HISTORIES / "InvocationWorkflow" / "success.json"


def replayer() -> Replayer:
    policy = (
        workflow.SandboxImportNotificationPolicy.WARN_ON_DYNAMIC_IMPORT
        | workflow.SandboxImportNotificationPolicy.RAISE_ON_UNINTENTIONAL_PASSTHROUGH
    )
    restrictions = SandboxRestrictions.default.with_import_notification_policy(policy)
    return Replayer(
        workflows=WORKFLOWS,
        data_converter=pydantic_data_converter,
        workflow_runner=SandboxedWorkflowRunner(restrictions=restrictions),
    )


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parent.name}/{path.stem}")
async def test_a_recorded_history_replays(path: Path) -> None:
    await replayer().replay_workflow(read_history(path))


def test_every_workflow_has_a_history() -> None:
    recorded = {path.parent.name for path in RECORDED}
    assert recorded == {defined.__name__ for defined in WORKFLOWS}


@pytest.mark.parametrize(
    ("recorded", "altered"),
    [
        ('"name": "provision_worker"', '"name": "make_worker"'),
        ('"name": "watch_worker"', '"name": "terminate_worker"'),
    ],
)
async def test_a_history_of_another_workflow_does_not_replay(recorded: str, altered: str) -> None:
    """The gate bites: an activity of another name is not taken for ours."""
    history = read_history(SUCCESS, {recorded: altered})
    with pytest.raises(workflow.NondeterminismError, match="activity type"):
        await replayer().replay_workflow(history)


def texts_in(value: Any) -> Iterator[str]:
    """Give every text of a history; payloads decoded."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from texts_in(item)
    elif isinstance(value, dict):
        if "data" in value and "metadata" in value:
            yield base64.b64decode(value["data"]).decode()
            return
        for key, item in value.items():
            if key.lower().endswith("identity"):
                assert item == RECORDER
            yield from texts_in(item)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_history_tells_nothing_of_the_machine_and_of_user_data(path: Path) -> None:
    machine = re.compile(
        # An identity, a file, an absolute path.
        rf"""\d+@|{re.escape(socket.gethostname())}|\.py\b|(^|[\s"'])/\w+/"""
    )
    texts = list(texts_in(json.loads(path.read_text())))
    assert len(texts) > 20
    assert [text for text in texts if machine.search(text)] == []
    # Of what the recorded workers reported as their error, only the class may be there.
    assert [text for text in texts if re.search("ValueError: (once|always)", text)] == []

"""Recorded histories as files: where they lie, and what is taken out of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowHistory

HISTORIES = Path(__file__).parent / "histories"

RECORDER = "recorder"
"""Stands for the process id and host name of whoever did something."""


def write_history(history: WorkflowHistory, path: Path) -> None:
    """Write a history without traces of the machine that it was recorded on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _scrubbed(json.loads(history.to_json()))
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _scrubbed(value: Any) -> Any:
    if isinstance(value, list):
        return [_scrubbed(item) for item in value]
    if isinstance(value, dict):
        if value.get("kind") == "TASK_QUEUE_KIND_STICKY":
            # It is named after the identity.
            return {**value, "name": f"{RECORDER}-sticky"}
        return {
            key: RECORDER if key.lower().endswith("identity") else _scrubbed(item)
            for key, item in value.items()
            # Stack traces hold paths.
            if key != "stackTrace"
        }
    return value


def read_history(path: Path, alterations: Mapping[str, str] | None = None) -> WorkflowHistory:
    """Read a history; its workflow id is the one that it was recorded with.

    Args:
        path: the file.
        alterations: text that must occur in it -> what is to take its place.
    """
    text = path.read_text()
    for recorded, altered in (alterations or {}).items():
        assert recorded in text
        text = text.replace(recorded, altered)
    started = json.loads(text)["events"][0]["workflowExecutionStartedEventAttributes"]
    return WorkflowHistory.from_json(started["workflowId"], text)

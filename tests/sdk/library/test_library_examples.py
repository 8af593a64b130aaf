"""The examples that use the library do what they say."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from control_plane import Client, InvocationCancelledError
from control_plane.deploy import deploy

from tests.support.repository import ROOT
from tests.support.stack.stack import API_KEY, Stack

EXAMPLES = ROOT / "examples"


def deployed(stack: Stack, name: str) -> dict[str, Any]:
    """Deploy an example as the project of the same name; returns what its main.py defines."""
    folder = EXAMPLES / name
    with Client(stack.caller.url, API_KEY) as client:
        assert deploy(client, folder, project=name).is_ready
    return runpy.run_path(str(folder / "main.py"), run_name="main")


@pytest.fixture(autouse=True)
def surroundings(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROL_PLANE_API_URL", stack.caller.url)
    monkeypatch.setenv("CONTROL_PLANE_API_KEY", API_KEY)


def test_text_statistics(stack: Stack, tmp_path: Path) -> None:
    example = deployed(stack, "text_statistics")
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("to be\nor not to be\n" * (number + 1))
    files = [str(path) for path in tmp_path.iterdir()]
    assert example["put_together"](files, project="text_statistics") == {
        "files": 5,
        "lines": 30,
        "words": 90,
        "most_common": [("to", 30), ("be", 30), ("or", 15), ("not", 15)],
    }


def test_nested_fan_out(stack: Stack) -> None:
    total = deployed(stack, "nested_fan_out")["total"].options(project="nested_fan_out")
    call = total.start(10_000)
    assert call.result(timeout=90) == 1229
    with Client() as client:
        pieces = list(client.iterate_invocations("nested_fan_out", "piece"))
        blocks = {
            each.invocation_id for each in client.iterate_invocations("nested_fan_out", "block")
        }
    assert len(pieces) == 6
    assert {each.parent_invocation.invocation_id for each in pieces if each.parent_invocation} == (
        blocks
    )


def test_long_computation(stack: Stack, tmp_path: Path) -> None:
    longest = deployed(stack, "long_computation")["longest"]
    assert longest(10_000) == {"number": 6171, "steps": 261}
    checkpoint = tmp_path / "checkpoint.json"
    remote = longest.options(project="long_computation")
    call = remote.start(10**9, checkpoint=str(checkpoint))
    seen = next(state for state in call.watch() if state.progress)
    assert seen.progress is not None
    assert seen.progress["total"] == 10**9
    call.cancel()
    with pytest.raises(InvocationCancelledError):
        call.result(timeout=60)
    stopped_at, best = json.loads(checkpoint.read_text())
    assert stopped_at >= seen.progress["done"]
    assert any(f"stopped at {stopped_at}" in line for line in call.logs())
    assert remote.call(stopped_at + 1, checkpoint=str(checkpoint)) == best

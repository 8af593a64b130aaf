import os
import signal
from pathlib import Path

import pytest

from tests.support.stack.processes import Program, run, until_no_process_mentions


def test_the_demo_shows_how_every_call_ended(tmp_path: Path) -> None:
    """As a newcomer runs it: with nothing but a PATH, and nothing left behind."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "COLUMNS": "160"}
    ended = run("demo", environment=environment, seconds=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    _, _, table = ended.stdout.partition("Invocations")
    rows = [" ".join(row.replace("│", " ").replace("┃", " ").split()) for row in table.splitlines()]
    for beginning in (
        "function phase # cause result or error",
        'greet SUCCEEDED 1 succeeded "Hello, Ada!"',
        "flaky SUCCEEDED 1 user_error ConnectionError",
        "3 succeeded",
        "count_up SUCCEEDED 1 succeeded",
        "sleepy TIMED_OUT 1 timed_out",
    ):
        assert any(row.startswith(beginning) for row in rows), (beginning, table)
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(open_folder: Path, number: int) -> None:
    """Its workers neither: their folder goes, and no other stack knows them."""
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(open_folder)}
    program = Program("demo", environment=environment, folder=open_folder / "output")
    # The function that would run longest.
    program.says("sleepy    execution 1 runs")

    program.send(number)

    assert program.wait(seconds=60) == 130
    assert "Traceback" not in program.stderr
    until_no_process_mentions(open_folder)
    assert list(open_folder.iterdir()) == [open_folder / "output"]

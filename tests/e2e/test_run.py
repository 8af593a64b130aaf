"""`control-plane run`: with a server that answers, and with a stack of its own."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from control_plane import AsyncClient
from control_plane.models import InvocationPath

from standalone.run.call import follow
from standalone.run.display import display
from tests.support.sdk.gateway import INVOCATION, Gateway, Scripted
from tests.support.stack.processes import COMMAND, Program, run, until_no_process_mentions
from tests.support.stack.stack import API_KEY, Stack, end_workers

WriteProject = Callable[[dict[str, str]], Path]

JOBS = """
import time
from pathlib import Path

from control_plane import InvocationCancelled, function, progress


@function
def greet(name: str = "world", *, punctuation: str = "!") -> str:
    print("greeting", name)
    return f"Hello, {name}{punctuation}"


@function
def fail(text: str) -> None:
    raise ValueError(text)


@function
def wait(started: str) -> None:
    progress(1, 4, message="waiting")
    try:
        Path(started).touch()
        time.sleep(600)
    except InvocationCancelled:
        print("cleaned up")
        raise
"""


def environment(folder: Path, **others: str) -> dict[str, str]:
    """Nothing configured, and nobody's data folder."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "CONTROL_PLANE_DATA_FOLDER": str(folder / "data-of-up"),
        "CONTROL_PLANE_RUN_DATA_FOLDER": str(folder / "data-run"),
        **others,
    }


def test_with_a_server_that_answers(
    stack: Stack, write_project: WriteProject, tmp_path: Path
) -> None:
    jobs = write_project({"jobs.py": JOBS}) / "jobs.py"
    (tmp_path / "input.json").write_text('["Ada"]')
    configured = environment(
        tmp_path, CONTROL_PLANE_API_URL=stack.caller.url, CONTROL_PLANE_API_KEY=API_KEY
    )

    def call(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run("run", f"{jobs}::{name}", *arguments, environment=configured, seconds=120)

    ended = call("greet", "--input", f"@{tmp_path / 'input.json'}")
    assert (ended.returncode, ended.stdout) == (0, '"Hello, Ada!"\n'), ended.stderr
    assert f"Using {stack.caller.url}\n" in ended.stderr
    assert f"Deploying {jobs.parent} (1 file, {len(JOBS)} bytes) as project run-project\n" in (
        ended.stderr
    )
    assert "\ngreeting Ada\n" in ended.stderr

    failed = call("fail", "--input", '"broken"', "--json")
    assert failed.returncode == 1
    seen = json.loads(failed.stdout)
    assert (seen["phase"], seen["executions"][0]["cause"]) == ("FAILED", "user_error")
    assert failed.stderr.endswith("Error: ValueError: broken\n")

    late = call("wait", "--input", json.dumps(str(tmp_path / "late")), "--timeout", "0.5")
    assert (late.returncode, late.stdout) == (4, "")
    assert "Not ended within 0.5 s: cancelling" in late.stderr

    assert not (tmp_path / "data-run").exists()


async def test_state_and_lines_of_a_call_are_asked_for_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    execution = {
        "execution_id": "exe-1",
        "attempt": 1,
        "worker_status": "TERMINATED",
        "creation_time": 1,
        "last_update_time": 2,
    }
    ended = {
        **INVOCATION,
        "phase": "SUCCEEDED",
        "invocation_status": "TERMINATED",
        "executions": [execution],
    }
    lines = {"log_lines": ["a line"], "next_offset": None}
    path = InvocationPath(
        project_name="p", version_id="ver-1", function_name="f", invocation_id="inv-1"
    )
    with Gateway(Scripted(body=ended), Scripted(body=lines), Scripted(status=500)) as gateway:
        async with AsyncClient(gateway.url, "key") as client:
            with display() as shown:
                result = await follow(
                    client, path, display=shown, stop=asyncio.Event(), timeout=None, stack=None
                )
    assert result.invocation is not None
    assert result.invocation.phase == "SUCCEEDED"
    assert [seen.path.rpartition("/")[2] for seen in gateway.seen] == ["inv-1", "logs"]
    assert capsys.readouterr().err == "a line\n"


@pytest.mark.timeout(300)
def test_without_a_server_one_run_is_interrupted_and_the_next_one_waits_for_its_stack(
    open_folder: Path,
) -> None:
    home = open_folder / "home"
    home.mkdir(mode=0o711)
    (home / "jobs.py").write_text(JOBS)
    (home / "other.txt").write_text("private")
    started = open_folder / "started"
    for_others = {
        "POSTGRES_HOST": "127.0.0.1",
        "TEMPORAL_ADDRESS": "127.0.0.1:9",
        "BUNDLE_STORE_FOLDER": str(open_folder / "bundles of another"),
    }
    here = environment(open_folder, **for_others) | {"HOME": str(home)}
    first = Program(
        *("run", f"{home / 'jobs.py'}::wait", "--input", json.dumps(str(started))),
        environment=here,
        folder=open_folder / "first",
    )
    try:
        first.writes("1/4 (25%) waiting", seconds=90)
        second = Program(
            *("run", f"{home / 'jobs.py'}::greet", "--input", '{"punctuation": "?"}'),
            environment=here,
            folder=open_folder / "second",
        )
        second.writes(f"is in use by process {first.pid} (control-plane run). Waiting", seconds=60)

        first.send(signal.SIGINT)

        assert first.wait(seconds=60) == 3, first.stderr
        # In a home folder other things lie about: only the file itself is deployed.
        assert f"Deploying {home / 'jobs.py'} alone" in first.stderr
        assert "\ncleaned up\n" in first.stderr
        assert "was cancelled" in first.stderr.splitlines()[-1]
        assert "Traceback" not in first.stderr
        assert first.stdout == ""

        assert second.wait(seconds=90) == 0, second.stderr
        assert second.stdout == '"Hello, world?"\n'
        assert not (open_folder / "bundles of another").exists()
        until_no_process_mentions(open_folder / "data-run")
    finally:
        first.kill()
        asyncio.run(end_workers(open_folder / "data-run" / "workers"))


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (
            "jobs.py",
            "Which function of jobs.py? Write jobs.py::NAME. Functions to run: greet, fail",
        ),
        ("jobs.py::gret", "jobs.py has no function 'gret'. Functions to run: greet, fail, wait"),
        ("plain.py::helper", "helper in plain.py is no function to deploy. Write @function above"),
        ("none.py::helper", "There is no Python file none.py. The form is FILE.py::FUNCTION"),
        ("wrong.py::helper", "line 1: invalid syntax"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_starts(
    write_project: WriteProject, target: str, says: str
) -> None:
    files = {"jobs.py": JOBS, "plain.py": "def helper():\n    return 1\n", "wrong.py": "def"}
    folder = write_project(files)
    ended = subprocess.run(
        [COMMAND, "run", target],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert says in ended.stderr
    assert not (folder / "data-run").exists()

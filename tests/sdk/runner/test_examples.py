"""The examples do what they say."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.repository import ROOT
from tests.support.sdk.peer import Fault, Peer
from tests.support.sdk.workers import StartWorker, Worker, environment_of

EXAMPLES = ROOT / "examples"


@pytest.fixture
def hello(project: Path) -> Path:
    return shutil.copytree(EXAMPLES / "hello", project, dirs_exist_ok=True)


def output_of(peer: Peer) -> object:
    assert peer.finished is not None
    return json.loads(str(peer.finished["final_output"]))


@pytest.mark.usefixtures("hello")
@pytest.mark.parametrize(
    ("function", "text", "output"),
    [
        ("greet", '{"name": "Ada"}', "Hello, Ada!"),
        ("greet", '["Ada"]', "Hello, Ada!"),
        ("greet", '"Ada"', "Hello, Ada!"),
        (
            "word_count",
            '{"text": "To be or not to be", "top": 2}',
            {"words": 6, "most_common": [["to", 2], ["be", 2]]},
        ),
    ],
)
def test_hello_functions(
    function: str, text: str, output: object, *, peer: Peer, start_worker: StartWorker
) -> None:
    peer.input = text

    assert start_worker(None, function).end() == 0
    assert output_of(peer) == output


@pytest.mark.usefixtures("hello")
def test_flaky_works_at_its_third_execution(
    peer: Peer, start_worker: StartWorker, tmp_path: Path
) -> None:
    peer.input = json.dumps({"state_file": str(tmp_path / "state")})
    for code in (1, 1, 0):
        peer.started, peer.finished = False, None
        assert start_worker(None, "flaky").end() == code
    assert output_of(peer) == "worked at execution 3"


@pytest.mark.usefixtures("hello")
def test_count_up_reports_its_progress(peer: Peer, start_worker: StartWorker) -> None:
    peer.input = '{"to": 3, "pause": 0}'

    assert start_worker(None, "count_up").end() == 0
    assert peer.outputs == [{"step": 1, "of": 3}, {"step": 2, "of": 3}, {"step": 3, "of": 3}]


@pytest.mark.usefixtures("hello")
def test_sleepy_cleans_up_at_its_time_limit(
    peer: Peer, start_worker: StartWorker, project: Path
) -> None:
    peer.input = "3600"
    peer.creation_time -= 100
    peer.timeout_seconds = 10
    (project / "observed.py").write_text(
        "import main\ndef sleepy(seconds):\n    print('ready')\n    return main.sleepy(seconds)\n"
    )
    worker = start_worker(None, "observed:sleepy")
    worker.wait_for_output("ready")
    worker.sigterm()

    assert worker.end() == 143
    assert peer.finished is not None
    assert peer.finished["outcome"] == "ABORTED"
    assert "out of time: cleaning up" in worker.output


needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None, reason="the shell worker makes its calls with curl"
)


def start_shell_worker(peer: Peer, project: Path, *, step_seconds: str = "0") -> Worker:
    folder = shutil.copytree(EXAMPLES / "shell_worker", project, dirs_exist_ok=True)
    environment = environment_of(
        peer, "run", CONTROL_PLANE_PROJECT_NAME="p", STEP_SECONDS=step_seconds
    )
    return Worker([str(folder / "worker.sh")], environment=environment, folder=folder)


@needs_curl
def test_shell_worker_starts_updates_and_finishes(peer: Peer, project: Path) -> None:
    peer.input = "2"
    peer.faults["start"] = [Fault(status=503)]
    peer.faults["finish"] = [Fault(drop_after=True)]
    worker = start_shell_worker(peer, project)

    assert worker.end(timeout=60) == 0, worker.output
    assert peer.outputs == [{"step": 1}, {"step": 2}]
    assert peer.reports == [{"done": 1, "total": 2}, {"done": 2, "total": 2}]
    assert peer.verbs == ["start"] * 2 + ["progress", "update"] * 2 + ["finish"] * 2
    assert output_of(peer) == "done by a shell script"


@needs_curl
def test_shell_worker_reports_aborted_after_a_signal(peer: Peer, project: Path) -> None:
    worker = start_shell_worker(peer, project, step_seconds="3600")
    peer.wait_for_calls("update")
    worker.sigterm()

    assert worker.end() == 143
    assert peer.finished == {"outcome": "ABORTED"}


@needs_curl
def test_shell_worker_leaves_an_execution_that_another_worker_has_started(
    peer: Peer, project: Path
) -> None:
    peer.started = True
    worker = start_shell_worker(peer, project)

    assert worker.end() == 3
    assert peer.verbs == ["start"]

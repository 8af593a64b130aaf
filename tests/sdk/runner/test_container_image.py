"""The container example's entrypoint, as a container would call it; without a container.

The SDK is a wheel in a virtual environment of its own, the project lies elsewhere, and nothing but
environment variables says what is to be done.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.repository import ROOT
from tests.support.sdk.peer import Peer
from tests.support.sdk.workers import SDK, Worker, environment_of

EXAMPLE = ROOT / "examples" / "container_image"


def run(*command: str | Path, folder: Path | None = None) -> None:
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the Dockerfile puts into the root of the image."""
    folder = tmp_path_factory.mktemp("image")
    # From a copy: building leaves the checkout as it is. The same as `pip wheel --no-deps sdk`.
    sdk = shutil.copytree(SDK, folder / "sdk", ignore=shutil.ignore_patterns("__pycache__"))
    run(
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "-t",
        "wheel",
        "-d",
        folder / "wheels",
        folder=sdk,
    )
    venv = folder / "opt" / "venv"
    run(sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, venv)
    (wheel,) = (folder / "wheels").glob("*.whl")
    # Without what else the SDK depends on: the runner must do with the standard library.
    run(
        *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps"),
        *("--python", venv / "bin" / "python", wheel),
    )
    shutil.copytree(EXAMPLE, folder / "project")
    return folder


@contextmanager
def container(image: Path, peer: Peer, function: str, folder: Path) -> Iterator[Worker]:
    """Run the ENTRYPOINT with the ENV of the Dockerfile, in a folder that holds nothing."""
    dockerfile = (EXAMPLE / "Dockerfile").read_text().replace("\\\n", " ")
    (entrypoint,) = re.findall(r"^ENTRYPOINT (\[.*\])$", dockerfile, re.MULTILINE)
    (variables,) = re.findall(r"^ENV (.*)$", dockerfile, re.MULTILINE)
    program, *arguments = json.loads(entrypoint)
    given = dict(each.split("=", 1) for each in variables.split())
    assert given["CONTROL_PLANE_PROJECT_FOLDER"] == "/project"
    given["CONTROL_PLANE_PROJECT_FOLDER"] = str(image / "project")
    (folder / "empty").mkdir()
    worker = Worker(
        [f"{image}{program}", *arguments],
        environment=environment_of(peer, function, **given),
        folder=folder / "empty",
    )
    try:
        yield worker
    finally:
        worker.process.kill()
        worker.process.wait()


def test_a_function_runs_with_the_image_s_own_python_and_code(
    image: Path, peer: Peer, tmp_path: Path
) -> None:
    peer.input = ""
    with container(image, peer, "where", tmp_path) as worker:
        assert worker.end(timeout=60) == 0, worker.output
    assert peer.finished is not None
    seen = json.loads(str(peer.finished["final_output"]))
    assert seen["project"] == str(image / "project")
    assert seen["system"] != "unknown"


def test_sigterm_reaches_the_function(image: Path, peer: Peer, tmp_path: Path) -> None:
    peer.input = "3600"
    with container(image, peer, "wait", tmp_path) as worker:
        worker.wait_for_output("waiting")
        worker.sigterm()
        assert worker.end(timeout=60) == 143, worker.output
    assert "goodbye" in worker.output
    assert peer.finished is not None
    assert peer.finished["outcome"] == "ABORTED"

"""Real workers (subprocesses that run the runner) and the API they talk to."""

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sdk.peer import Peer
from tests.support.sdk.workers import SDK, StartWorker, Worker, environment_of


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder that shows workers the SDK and nothing beside it."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "control_plane").symlink_to(SDK / "control_plane")
    return home


@pytest.fixture
def start_worker(peer: Peer, project: Path, home: Path) -> Iterator[StartWorker]:
    """Start the runner on code that is written to the project's main.py."""
    workers: list[Worker] = []

    def start(
        code: str | None = None,
        function: str = "run",
        *,
        arguments: list[str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> Worker:
        if code is not None:
            (project / "main.py").write_text(textwrap.dedent(code), encoding="utf-8")
        script = str(home / "control_plane" / "runner" / "__main__.py")
        worker = Worker(
            [sys.executable, *(arguments or ["-I", "-S", script])],
            environment=environment or environment_of(peer, function),
            folder=project,
        )
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.kill()
        worker.process.wait()

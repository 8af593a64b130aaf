"""The example server keeps the protocol; and so does the external provisioner together with it."""

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from core.ids import ExecutionId, InvocationId, VersionId
from provisioners.base import FunctionToPrepare, Provisioner, ResourceSpec, WorkerRequest
from provisioners.conformance import (
    Backend,
    Behaviour,
    NoBundles,
    ProvisionerConformance,
    new_execution_id,
)
from provisioners.external.provisioner import ExternalProvisioner
from tests.support.provisioners.example_server import EXAMPLE, KEY, ExampleServer
from tests.support.provisioners.external_requests import provisioner_at
from tests.support.provisioners.process_backend import BEHAVIOURS, PYTHON
from tests.support.stack.processes import wait_for

VERSION = VersionId("ver-" + "0" * 32)
SPEC = ResourceSpec(virtual_cpus=1, memory_gbs=0.5)
PRELUDE = """
import os, signal, sys, time
STATE = os.environ["STATE"]
with open(STATE + "/starts", "a") as file:
    file.write("x")
def wait_for_release():
    while not os.path.exists(STATE + "/release"):
        time.sleep(0.01)
"""

EXIT_CODE = "the protocol tells no exit code"
NEEDS_DETAILS = "the protocol ends workers only by their details"
NOT_IN_THE_PROTOCOL = {
    "test_provision_after_the_end_starts_nothing": EXIT_CODE,
    "test_observe_and_wait_tell_how_it_ended": EXIT_CODE,
    "test_terminate_asks_politely": EXIT_CODE,
    "test_terminate_forces_after_the_grace": "the server decides how long a worker may take",
    "test_a_later_terminate_does_not_prolong_the_grace": "as above",
    "test_terminate_twice_asks_once": NEEDS_DETAILS,
    "test_nothing_starts_after_terminate": NEEDS_DETAILS,
    "test_terminate_races_provision": NEEDS_DETAILS,
    "test_terminate_accepts_a_worker_that_never_was": NEEDS_DETAILS,
    "test_list_names_workers_until_they_are_forgotten": "the protocol lists no workers",
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ExampleServer]:
    server = ExampleServer(tmp_path)
    yield server
    server.close()


class ExternalBackend(Backend):
    """Workers of the example server."""

    def __init__(self, folder: Path, server: ExampleServer) -> None:
        self._folder = folder
        self._server = server
        self.provisioner: ExternalProvisioner = provisioner_at(server.url)
        self.opened: list[Provisioner] = [self.provisioner]
        self._projects = 0

    def project(self, behaviour: Behaviour) -> str:
        self._projects += 1
        project = self._folder / f"project-{self._projects}"
        project.mkdir()
        (project / "program.py").write_text(PRELUDE + BEHAVIOURS[behaviour])
        (project / "control-plane.toml").write_text(
            f'command = ["{PYTHON}", "-I", "-S", "{project}/program.py"]\n'
        )
        return project.as_uri()

    def function(self, behaviour: Behaviour) -> FunctionToPrepare:
        return self._function(self.project(behaviour))

    def missing_function(self) -> FunctionToPrepare:
        return self._function((self._folder / "nowhere").as_uri())

    def _function(self, image: str) -> FunctionToPrepare:
        return FunctionToPrepare(
            project_name="project",
            version_id=VERSION,
            function_name="function",
            docker_image=image,
            resource_spec=SPEC,
        )

    def request(self, behaviour: Behaviour) -> WorkerRequest:
        image = self.project(behaviour)
        execution_id = new_execution_id()
        self._state(execution_id).mkdir(parents=True)
        return WorkerRequest(
            project_name="project",
            version_id=VERSION,
            function_name="function",
            invocation_id=InvocationId("inv-" + "0" * 32),
            execution_id=execution_id,
            attempt=1,
            docker_image=image,
            resource_spec=SPEC,
            prepared_details={"type": "TEST", "identifier": image},
            environment={"TOKEN": "the token", "STATE": str(self._state(execution_id))},
        )

    def _state(self, execution_id: ExecutionId) -> Path:
        return self._folder / "states" / execution_id

    def starts(self, execution_id: ExecutionId) -> int:
        try:
            return len((self._state(execution_id) / "starts").read_text())
        except FileNotFoundError:
            return 0

    def release(self, execution_id: ExecutionId) -> None:
        (self._state(execution_id) / "release").touch()

    async def another(self) -> Provisioner:
        other = provisioner_at(self._server.url)
        await other.start("test", NoBundles())
        self.opened.append(other)
        return other


class TestExternalProvisioner(ProvisionerConformance):
    """The suite of all provisioners, as far as the protocol goes."""

    @pytest.fixture(autouse=True)
    def _skip_what_the_protocol_does_not_have(self, request: pytest.FixtureRequest) -> None:
        reason = NOT_IN_THE_PROTOCOL.get(request.function.__name__)
        if reason is not None:
            pytest.skip(reason)

    @pytest.fixture
    async def backend(self, tmp_path: Path, server: ExampleServer) -> AsyncIterator[Backend]:
        backend = ExternalBackend(tmp_path, server)
        await backend.provisioner.start("test", NoBundles())
        yield backend
        for provisioner in backend.opened:
            await provisioner.close()


def test_the_example_server_passes_the_conformance_tests(
    server: ExampleServer, tmp_path: Path
) -> None:
    """As a third party runs them: a copy of the folder, with nothing of this project around it."""
    kit = tmp_path / "kit"
    shutil.copytree(EXAMPLE, kit, ignore=shutil.ignore_patterns("__pycache__"))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_conformance.py"],
        cwd=kit,
        env={
            "PATH": os.environ["PATH"],
            "PROVISIONER_API_URL": server.url,
            "PROVISIONER_API_KEY": KEY,
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout[-4000:]
    assert " passed" in ran.stdout
    assert "skipped" not in ran.stdout


class Asker:
    """Asks the example server directly."""

    def __init__(self, server: ExampleServer, image: str) -> None:
        self.server = server
        self.execution_id = new_execution_id()
        self._request = {
            "execution_id": self.execution_id,
            "prepared_function_details": {"type": "TEST", "identifier": image},
        }
        self.details = self.ask("provision", self._request)["worker_details"]

    def ask(self, verb: str, body: Mapping[str, object]) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {KEY}"}
        answer = httpx.post(f"{self.server.url}/{verb}", json=body, headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        found: dict[str, str] = answer.json()
        return found

    def status(self) -> str:
        return self.ask("check_status", {"worker_details": self.details})["worker_status"]

    def terminate(self) -> None:
        self.ask("terminate", {"worker_details": self.details})

    def provision(self) -> None:
        self.ask("provision", self._request)

    def output(self) -> str:
        return (self.server.worker(self.execution_id) / "output.log").read_text()


def test_the_example_server_gives_a_worker_again_whose_code_is_gone(
    server: ExampleServer, stubborn: str, tmp_path: Path
) -> None:
    """What asks again wants to find the worker, perhaps in order to end it."""
    worker = Asker(server, stubborn)
    (tmp_path / "stubborn").rename(tmp_path / "gone")

    worker.provision()

    assert worker.status() == "RUNNING"
    with pytest.raises(AssertionError, match="does not exist"):
        Asker(server, stubborn)


@pytest.mark.parametrize(("port", "says"), [("taken", "in use"), ("70000", "0-65535")])
def test_a_port_that_the_example_server_cannot_have_is_one_clear_line(
    server: ExampleServer, tmp_path: Path, port: str, says: str
) -> None:
    chosen = server.port if port == "taken" else port
    ran = subprocess.run(
        [
            sys.executable,
            EXAMPLE / "server.py",
            f"--port={chosen}",
            f"--state-folder={tmp_path}/other",
        ],
        env={"PATH": os.environ["PATH"], "PROVISIONER_API_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith(f"server.py: cannot listen at 127.0.0.1:{chosen}: ")
    assert says in line


@pytest.fixture
def stubborn(tmp_path: Path) -> str:
    """A project whose program does not stop at SIGTERM."""
    project = tmp_path / "stubborn"
    project.mkdir()
    script = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.1; done"
    (project / "control-plane.toml").write_text(f'command = ["/bin/sh", "-c", "{script}"]\n')
    return project.as_uri()


def test_the_example_server_kills_what_does_not_stop(server: ExampleServer, stubborn: str) -> None:
    worker = Asker(server, stubborn)
    wait_for(worker.output)
    worker.terminate()
    worker.terminate()

    wait_for(worker.status, lambda status: status == "TERMINATED")

    assert worker.output() == "ready\nasked\n"


def test_a_restart_of_the_example_server_forgets_nothing(
    server: ExampleServer, stubborn: str
) -> None:
    worker = Asker(server, stubborn)
    wait_for(worker.output)
    worker.terminate()
    wait_for(worker.output, lambda output: "asked" in output)

    server.kill()
    server.start()

    worker.provision()
    worker.terminate()
    wait_for(worker.status, lambda status: status == "TERMINATED")
    worker.provision()
    assert worker.status() == "TERMINATED"
    assert worker.output() == "ready\nasked\n"

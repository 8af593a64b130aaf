"""Projects, requests and clean-up for the tests of the process provisioner."""

import os
import signal
from pathlib import Path

from core.ids import ExecutionId, InvocationId, VersionId
from provisioners.base import (
    FunctionToPrepare,
    Provisioner,
    ResourceSpec,
    WorkerRecord,
    WorkerRequest,
)
from provisioners.code.sdk import base_python
from provisioners.conformance import Backend, Behaviour, NoBundles, new_execution_id, wait_for_end
from provisioners.process.config import ProcessProvisionerConfig
from provisioners.process.folder import StartRecord, WorkerFolder
from provisioners.process.identity import with_environment
from provisioners.process.provisioner import ProcessProvisioner
from provisioners.process.scratch import Scratch, Scratches

DEPLOYMENT = "test"
PYTHON = str(base_python())
SMALL = ResourceSpec(virtual_cpus=1, memory_gbs=0.5)

# Each start leaves a mark; RELEASE appears when the test wants the program to end.
PRELUDE = """
import os, signal, sys, time
STATE = os.path.dirname(os.getcwd())
with open(STATE + "/starts", "a") as file:
    file.write("x")
def wait_for_release():
    while not os.path.exists(STATE + "/release"):
        time.sleep(0.01)
"""

BEHAVIOURS = {
    Behaviour.EXITS_WITH_3: "print('one'); print('two'); sys.exit(3)",
    Behaviour.RUNS: """
asked = []
def stop(*_):
    print('asked to stop', flush=True)
    asked.append(time.monotonic())
signal.signal(signal.SIGTERM, stop)
print('ready', flush=True)
while not asked or time.monotonic() < asked[0] + 0.5:
    time.sleep(0.01)
""",
    Behaviour.IGNORES_SIGTERM: """
signal.signal(signal.SIGTERM, lambda *_: print('asked to stop', flush=True))
print('ready', flush=True)
time.sleep(60)
""",
    Behaviour.SILENT: "wait_for_release()",
    Behaviour.PARTIAL_LINE: """
print('whole', flush=True)
print('partial', end='', flush=True)
wait_for_release()
""",
    Behaviour.PRINTS_TOKEN: "print(os.environ['TOKEN'])",
}


class ProcessBackend(Backend):
    """Real processes in a folder of the test's own."""

    def __init__(self, folder: Path, **config: bool | int | tuple[str, ...]) -> None:
        self.folder = folder
        self.config = ProcessProvisionerConfig(
            state_folder=folder / "state",
            **config,  # type: ignore[arg-type] # names and types are the caller's
        )
        self.provisioner = ProcessProvisioner(self.config)
        self._others: list[Provisioner] = []
        self._projects = 0

    @property
    def workers(self) -> Path:
        return self.config.state_folder / DEPLOYMENT / "workers"

    def project(self, script: str, *, name: str | None = None) -> str:
        """Make a project that runs a Python script; give its image."""
        self._projects += 1
        project = self.folder / (name or f"project-{self._projects}")
        project.mkdir()
        (project / "program.py").write_text(PRELUDE + script)
        (project / "control-plane.toml").write_text(
            f'command = ["{PYTHON}", "-I", "-S", "{project}/program.py"]\n'
        )
        return project.as_uri()

    def request_for(
        self,
        image: str,
        *,
        spec: ResourceSpec = SMALL,
        environment: dict[str, str] | None = None,
    ) -> WorkerRequest:
        return WorkerRequest(
            project_name="project",
            version_id=VersionId("ver-" + "0" * 32),
            function_name="function",
            invocation_id=InvocationId("inv-" + "0" * 32),
            execution_id=new_execution_id(),
            attempt=1,
            docker_image=image,
            resource_spec=spec,
            prepared_details=None,
            environment={"TOKEN": "the token"} if environment is None else environment,
        )

    def function_for(self, image: str) -> FunctionToPrepare:
        return FunctionToPrepare(
            project_name="project",
            version_id=VersionId("ver-" + "0" * 32),
            function_name="function",
            docker_image=image,
            resource_spec=SMALL,
        )

    def function(self, behaviour: Behaviour) -> FunctionToPrepare:
        return self.function_for(self.project(BEHAVIOURS[behaviour]))

    def missing_function(self) -> FunctionToPrepare:
        return self.function_for((self.folder / "nowhere").as_uri())

    def request(self, behaviour: Behaviour) -> WorkerRequest:
        return self.request_for(self.project(BEHAVIOURS[behaviour]))

    def worker_folder(self, execution_id: ExecutionId) -> Path:
        return self.workers / execution_id

    def scratch(self, execution_id: ExecutionId) -> Scratch:
        return Scratches(self.config.state_folder / "w").of(execution_id)

    def starts(self, execution_id: ExecutionId) -> int:
        try:
            return len((self.scratch(execution_id).path / "starts").read_text())
        except FileNotFoundError:
            return 0

    def release(self, execution_id: ExecutionId) -> None:
        (self.scratch(execution_id).path / "release").touch()

    async def another(self) -> ProcessProvisioner:
        other = ProcessProvisioner(self.config)
        await other.start(DEPLOYMENT, NoBundles())
        self._others.append(other)
        return other

    def processes_of(self, execution_id: ExecutionId) -> list[int]:
        """All processes of a worker, its shim included, by the environment they inherited."""
        return with_environment(*self.scratch(execution_id).marks())

    async def close(self) -> None:
        """End all workers; fails if one cannot be ended or leaves something behind."""
        left = []
        for execution_id in await self.provisioner.list_workers():
            await self.provisioner.terminate(execution_id, None, grace=0)
            left += self.processes_of(execution_id)
            await self.provisioner.forget(execution_id)
        for provisioner in (*self._others, self.provisioner):
            await provisioner.close()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert left == []


def started(backend: ProcessBackend, request: WorkerRequest) -> StartRecord:
    found = WorkerFolder(backend.worker_folder(request.execution_id)).started()
    assert found is not None
    return found


def process_ids() -> list[int]:
    """All processes, zombies included."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def size(path: Path) -> int:
    return path.stat().st_size


def exists(path: Path) -> bool:
    return path.exists()


def arguments_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def memory_peak(pid: int) -> int:
    """In KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)


async def run(backend: ProcessBackend, request: WorkerRequest) -> tuple[WorkerRecord, list[str]]:
    """Run a worker to its end and give its output."""
    worker = await backend.provisioner.provision(request)
    await wait_for_end(backend.provisioner, worker)
    page = await backend.provisioner.read_logs(worker, offset="", ended=True)
    return worker, page.lines

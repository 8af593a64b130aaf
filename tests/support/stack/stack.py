"""API and Temporal worker as two processes, on servers that are given."""

import asyncio
import uuid
from pathlib import Path

from core.ids import ExecutionId
from core.settings import RegistrySettings
from provisioners.conformance import NoBundles
from provisioners.process.config import ProcessProvisionerConfig
from provisioners.process.folder import StartRecord, WorkerFolder
from provisioners.process.provisioner import ProcessProvisioner
from tests.support.ports import free_port
from tests.support.servers import Addresses, environment_of
from tests.support.stack.caller import Caller
from tests.support.stack.processes import Program

API_KEY = "butterflyburger-of-the-end-to-end-tests"
HEARTBEAT_SECONDS = 2
PROJECT = Path(__file__).parent / "project"


def environment_for(settings: RegistrySettings, addresses: Addresses) -> dict[str, str]:
    """What `control-plane api` and `control-plane worker` need, and nothing else."""
    return {
        **environment_of(settings),
        "TEMPORAL_ADDRESS": addresses["temporal_address"],
        "TEMPORAL_TASK_QUEUE": f"e2e-{uuid.uuid4().hex}",
        "TEMPORAL_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
        "CONTROL_PLANE_API_KEY": API_KEY,
        "TERMINATION_GRACE_SECONDS": "1",
    }


class Stack:
    """Two processes that a test may kill and start again."""

    provisioner = "process"

    def __init__(self, folder: Path, environment: dict[str, str], *, scheme: str = "http") -> None:
        self.folder = folder
        self.state_folder = folder / "state"
        self._environment = {**environment, "PROCESS_STATE_FOLDER": str(self.state_folder)}
        self._programs: list[Program] = []
        self.port = free_port()
        url = f"{scheme}://127.0.0.1:{self.port}"
        self._environment["CONTROL_PLANE_API_URL"] = url
        self.caller = Caller(url, API_KEY)
        try:
            self.start_api()
            self.start_temporal_worker()
            self.until_ready()
        except BaseException:
            self.close()
            raise

    def start_api(self) -> None:
        self.api = self._start("api", "--host", "127.0.0.1", "--port", str(self.port))

    def start_temporal_worker(self) -> None:
        self.temporal_worker = self._start("worker")

    def until_ready(self) -> None:
        """Wait until both have come up."""
        assert self.api.event("api_listening")["port"] == self.port
        self.temporal_worker.event("temporal_worker_started")

    def _start(self, command: str, *arguments: str) -> Program:
        program = Program(
            command,
            f"--provisioner={self.provisioner}",
            *arguments,
            environment=self._environment,
            folder=self.folder / f"{command}-{len(self._programs)}",
        )
        self._programs.append(program)
        return program

    def started(self, execution_id: str) -> StartRecord:
        """Give the processes of a worker that runs."""
        started = self.worker_folder(execution_id).started()
        assert started is not None
        return started

    def worker_folder(self, execution_id: str) -> WorkerFolder:
        return WorkerFolder(self.workers / execution_id)

    @property
    def workers(self) -> Path:
        """The folder with a folder for each worker."""
        (folder,) = self.state_folder.glob("*/workers")
        return folder

    def close(self) -> None:
        self.caller.http.close()
        for program in self._programs:
            program.kill()
        asyncio.run(end_workers(self.state_folder))


def deployments_in(state_folder: Path) -> list[str]:
    return [folder.parent.name for folder in state_folder.glob("*/workers")]


async def end_workers(state_folder: Path) -> None:
    """End the workers that a test has left."""
    for deployment in deployments_in(state_folder):
        provisioner = ProcessProvisioner(ProcessProvisionerConfig(state_folder=state_folder))
        await provisioner.start(deployment, NoBundles())
        for execution_id in await provisioner.list_workers():
            await provisioner.terminate(ExecutionId(execution_id), None, grace=0)
            await provisioner.forget(execution_id)
        await provisioner.close()

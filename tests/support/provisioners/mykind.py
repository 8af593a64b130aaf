"""A provisioner as a third party may write it, and what its tests need.

The tests copy this file into a project of its own (`test_third_party.py`): it imports nothing but
what docs/provisioners.md names. Its compute is this process: workers are tasks.
"""

import asyncio
import math
import uuid
from pathlib import Path
from typing import Self

from core.bundles import BundleSource
from core.ids import ExecutionId, InvocationId, VersionId
from provisioners.base import (
    Exited,
    FunctionToPrepare,
    LogPage,
    PreparedFunction,
    Provisioner,
    ResourceSpec,
    Running,
    UnrecoverableProvisioningError,
    WorkerObservation,
    WorkerRecord,
    WorkerRequest,
)
from provisioners.conformance import Backend, Behaviour, new_execution_id

EXIT_CODE = 3
IMAGES = {f"mykind:{behaviour.name}": behaviour for behaviour in Behaviour}
SPEC = ResourceSpec(virtual_cpus=1, memory_gbs=0.5)
VERSION = VersionId(f"ver-{uuid.uuid4().hex}")


class Machine:
    """The compute of one worker."""

    def __init__(self, behaviour: Behaviour, environment: dict[str, str]) -> None:
        self.output = ""
        self.exit_code: int | None = None
        self.deadline = math.inf
        self.asked = asyncio.Event()
        self.released = asyncio.Event()
        self._environment = environment
        self._program = asyncio.create_task(self._run(behaviour))

    async def _run(self, behaviour: Behaviour) -> None:
        code = 0
        match behaviour:
            case Behaviour.EXITS_WITH_3:
                self.output += "one\ntwo\n"
                code = EXIT_CODE
            case Behaviour.RUNS | Behaviour.IGNORES_SIGTERM:
                self.output += "ready\n"
                await self.asked.wait()
                self.output += "asked to stop\n"
                await asyncio.sleep(0.5 if behaviour is Behaviour.RUNS else 60)
            case Behaviour.SILENT:
                await self.released.wait()
            case Behaviour.PARTIAL_LINE:
                self.output += "whole\npartial"
                await self.released.wait()
            case Behaviour.PRINTS_TOKEN:
                self.output += self._environment["TOKEN"] + "\n"
        self.exit_code = code

    def kill(self) -> None:
        if self.exit_code is None:
            self._program.cancel()
            self.exit_code = 137

    def seen(self) -> WorkerObservation:
        return Running() if self.exit_code is None else Exited(exit_code=self.exit_code)


class Compute:
    """All machines; they go on without the provisioner that has made them."""

    def __init__(self) -> None:
        self.machines: dict[ExecutionId, Machine] = {}
        self.closed: set[ExecutionId] = set()


class MyKindProvisioner(Provisioner):
    kind = "mykind"

    def __init__(self, compute: Compute | None = None) -> None:
        self._compute = compute or Compute()
        self._output_seen: dict[ExecutionId, int] = {}

    @classmethod
    def from_environment(
        cls,
        *,
        data_folder: Path | None = None,  # noqa: ARG003 - the contract's
    ) -> Self:
        return cls()

    async def start(self, deployment: str, bundles: BundleSource) -> None:
        pass

    async def prepare(self, function: FunctionToPrepare) -> PreparedFunction:
        if function.docker_image not in IMAGES:
            raise UnrecoverableProvisioningError(f"{function.docker_image} does not exist")
        return PreparedFunction()

    async def provision(self, request: WorkerRequest) -> WorkerRecord:
        await asyncio.sleep(0)  # the way to the compute, where a call may be cancelled
        execution_id, compute = request.execution_id, self._compute
        if execution_id not in compute.machines and execution_id not in compute.closed:
            behaviour = IMAGES[request.docker_image]
            compute.machines[execution_id] = Machine(behaviour, request.environment)
        return WorkerRecord(execution_id=execution_id, state={"id": execution_id})

    async def observe(self, worker: WorkerRecord) -> WorkerObservation:
        machine = self._compute.machines.get(worker.execution_id)
        return Exited(detail="it has never started") if machine is None else machine.seen()

    async def wait(self, worker: WorkerRecord, *, timeout: float) -> WorkerObservation:
        end = asyncio.get_running_loop().time() + timeout
        while True:
            seen = await self.observe(worker)
            if isinstance(seen, Exited):
                return seen
            size = len(self._compute.machines[worker.execution_id].output)
            grown = size > self._output_seen.get(worker.execution_id, 0)
            self._output_seen[worker.execution_id] = size
            if grown or asyncio.get_running_loop().time() >= end:
                return seen
            await asyncio.sleep(0.01)

    async def terminate(
        self, execution_id: ExecutionId, worker: WorkerRecord | None, *, grace: float
    ) -> Exited:
        del worker  # the execution's id is enough
        loop = asyncio.get_running_loop()
        self._compute.closed.add(execution_id)
        machine = self._compute.machines.get(execution_id)
        if machine is None:
            return Exited(detail="it has never started")
        machine.deadline = min(machine.deadline, loop.time() + grace)
        machine.asked.set()
        while not isinstance(seen := machine.seen(), Exited):
            if loop.time() >= machine.deadline:
                machine.kill()
            await asyncio.sleep(0.01)
        return seen

    async def read_logs(self, worker: WorkerRecord, *, offset: str, ended: bool) -> LogPage:
        start = int(offset or 0)
        text = self._compute.machines[worker.execution_id].output[start:]
        whole = text if ended else text[: text.rfind("\n") + 1]
        next_offset = str(start + len(whole)) if whole else offset
        return LogPage(lines=whole.splitlines(), next_offset=next_offset)

    async def list_workers(self) -> list[ExecutionId]:
        return list(self._compute.machines)

    async def forget(self, execution_id: ExecutionId) -> None:
        self._compute.machines.pop(execution_id, None)


class MyKindBackend(Backend):
    """Makes requests whose workers behave as the suite asks."""

    def __init__(self) -> None:
        self.compute = Compute()
        self.provisioner = MyKindProvisioner(self.compute)

    def function(self, behaviour: Behaviour) -> FunctionToPrepare:
        return self._function(f"mykind:{behaviour.name}")

    def missing_function(self) -> FunctionToPrepare:
        return self._function("mykind:missing")

    def _function(self, image: str) -> FunctionToPrepare:
        return FunctionToPrepare(
            project_name="project",
            version_id=VERSION,
            function_name="function",
            docker_image=image,
            resource_spec=SPEC,
        )

    def request(self, behaviour: Behaviour) -> WorkerRequest:
        return WorkerRequest(
            project_name="project",
            version_id=VERSION,
            function_name="function",
            invocation_id=InvocationId(f"inv-{uuid.uuid4().hex}"),
            execution_id=new_execution_id(),
            attempt=1,
            docker_image=f"mykind:{behaviour.name}",
            resource_spec=SPEC,
            prepared_details=None,
            environment={"TOKEN": "the token"},
        )

    def starts(self, execution_id: ExecutionId) -> int:
        return 1 if execution_id in self.compute.machines else 0

    def release(self, execution_id: ExecutionId) -> None:
        self.compute.machines[execution_id].released.set()

    async def another(self) -> Provisioner:
        return MyKindProvisioner(self.compute)

    async def close(self) -> None:
        for machine in self.compute.machines.values():
            machine.kill()

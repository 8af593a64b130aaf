"""A provisioner whose workers are tasks: they report over HTTP like real ones, and do nothing.

It takes the cost of starting processes out of the picture; what is left is the control plane.
"""

import asyncio
from pathlib import Path
from typing import Self

import aiohttp

from core.bundles import BundleSource
from core.ids import ExecutionId
from provisioners.base import (
    Exited,
    FunctionToPrepare,
    LogPage,
    PreparedFunction,
    Provisioner,
    ProvisionerError,
    Running,
    WorkerObservation,
    WorkerRecord,
    WorkerRequest,
)


class InstantProvisioner(Provisioner):
    """Its workers call start and finish, and are gone."""

    kind = "instant"

    def __init__(self) -> None:
        self._tasks: dict[ExecutionId, asyncio.Task[None]] = {}
        self._http: aiohttp.ClientSession | None = None

    @classmethod
    def from_environment(cls, *, data_folder: Path | None = None) -> Self:
        return cls()

    async def start(self, deployment: str, bundles: BundleSource) -> None:
        self._http = aiohttp.ClientSession(raise_for_status=True)

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    async def prepare(self, function: FunctionToPrepare) -> PreparedFunction:
        return PreparedFunction()

    async def provision(self, request: WorkerRequest) -> WorkerRecord:
        if request.execution_id not in self._tasks:
            task = asyncio.create_task(self._work(request.environment))
            self._tasks[request.execution_id] = task
        return WorkerRecord(execution_id=request.execution_id, state={"id": request.execution_id})

    async def _work(self, environment: dict[str, str]) -> None:
        facts = {name: environment[f"CONTROL_PLANE_{name}"] for name in _FACTS}
        url = (
            "{API_URL}/projects/{PROJECT_NAME}/versions/{VERSION_ID}/functions/{FUNCTION_NAME}"
            "/invocations/{INVOCATION_ID}/executions/{EXECUTION_ID}"
        ).format(**facts)
        headers = {"Authorization": f"Bearer {facts['API_KEY']}"}
        body = {"outcome": "SUCCEEDED", "final_output": "null"}
        assert self._http is not None
        async with self._http.put(f"{url}/start", headers=headers) as answer:
            await answer.read()
        async with self._http.put(f"{url}/finish", headers=headers, json=body) as answer:
            await answer.read()

    async def observe(self, worker: WorkerRecord) -> WorkerObservation:
        task = self._tasks.get(worker.execution_id)
        return Exited(exit_code=0) if task is None or task.done() else Running()

    async def wait(self, worker: WorkerRecord, *, timeout: float) -> WorkerObservation:
        task = self._tasks.get(worker.execution_id)
        if task is not None:
            await asyncio.wait([task], timeout=timeout)
        return await self.observe(worker)

    async def terminate(
        self, execution_id: ExecutionId, worker: WorkerRecord | None, *, grace: float
    ) -> Exited:
        raise ProvisionerError("an instant worker is not to be ended by others")

    async def read_logs(self, worker: WorkerRecord, *, offset: str, ended: bool) -> LogPage:
        return LogPage(lines=[], next_offset=offset)

    async def list_workers(self) -> list[ExecutionId]:
        return [i for i, task in self._tasks.items() if not task.done()]

    async def forget(self, execution_id: ExecutionId) -> None:
        task = self._tasks.pop(execution_id, None)
        if task is not None:
            await task


_FACTS = (
    "API_URL",
    "API_KEY",
    "PROJECT_NAME",
    "VERSION_ID",
    "FUNCTION_NAME",
    "INVOCATION_ID",
    "EXECUTION_ID",
)

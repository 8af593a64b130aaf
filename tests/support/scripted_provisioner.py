"""A provisioner that follows a script: its workers end only when the test says so."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from core.ids import ExecutionId
from provisioners.base import (
    Exited,
    FunctionToPrepare,
    LogPage,
    PreparedFunction,
    Provisioner,
    Running,
    WorkerObservation,
    WorkerRecord,
    WorkerRequest,
)


@dataclass
class ScriptedWorker:
    request: WorkerRequest
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    exited: Exited = field(default_factory=lambda: Exited(exit_code=0))
    terminations: int = 0
    lines: list[str] = field(default_factory=list)

    def end(self, exited: Exited | None = None) -> None:
        """The worker goes away."""
        self.exited = exited or self.exited
        self.ended.set()


class ScriptedProvisioner(Provisioner):
    """Everything it is asked is recorded; everything it answers can be set beforehand."""

    kind = "scripted"

    def __init__(self) -> None:
        self.workers: dict[ExecutionId, ScriptedWorker] = {}
        self.prepared: list[str] = []
        # Raised by the next calls, one each, before anything is done.
        self.prepare_errors: list[Exception] = []
        self.provision_errors: list[Exception] = []
        # Raised after the worker was made: its answer is lost.
        self.lost_answers: list[Exception] = []
        self.terminate_errors: list[Exception] = []
        self.list_errors: list[Exception] = []
        # Calls wait here while cleared.
        self.may_prepare = asyncio.Event()
        self.may_prepare.set()
        self.may_provision = asyncio.Event()
        self.may_provision.set()
        # Whether a termination ends the worker, as an obedient one would.
        self.obedient = True
        self.worker_type = "TEST"
        self.forbidden: set[ExecutionId] = set()
        # Workers that cannot be ended.
        self.stubborn: set[ExecutionId] = set()

    @classmethod
    def from_environment(
        cls,
        *,
        data_folder: Path | None = None,  # noqa: ARG003 - the contract's
    ) -> Self:
        return cls()

    async def prepare(self, function: FunctionToPrepare) -> PreparedFunction:
        await self.may_prepare.wait()
        if self.prepare_errors:
            raise self.prepare_errors.pop(0)
        self.prepared.append(function.function_name)
        return PreparedFunction(details={"type": "TEST", "identifier": function.function_name})

    async def provision(self, request: WorkerRequest) -> WorkerRecord:
        if self.provision_errors:
            raise self.provision_errors.pop(0)
        await self.may_provision.wait()
        execution_id = request.execution_id
        if execution_id not in self.forbidden:
            self.workers.setdefault(execution_id, ScriptedWorker(request))
        if self.lost_answers:
            raise self.lost_answers.pop(0)
        return WorkerRecord(
            execution_id=execution_id,
            state={"id": execution_id},
            details={
                "type": self.worker_type,
                "identifier": execution_id,
                "logs_identifier": "none",
            },
        )

    async def observe(self, worker: WorkerRecord) -> WorkerObservation:
        known = self.workers.get(worker.execution_id)
        if known is None:
            return Exited(detail="never started")
        return known.exited if known.ended.is_set() else Running()

    async def wait(self, worker: WorkerRecord, *, timeout: float) -> WorkerObservation:
        known = self.workers.get(worker.execution_id)
        if known is not None:
            try:
                await asyncio.wait_for(known.ended.wait(), timeout)
            except TimeoutError:
                return Running()
        return await self.observe(worker)

    async def terminate(
        self, execution_id: ExecutionId, worker: WorkerRecord | None, *, grace: float
    ) -> Exited:
        del worker, grace
        if self.terminate_errors:
            raise self.terminate_errors.pop(0)
        if execution_id in self.stubborn:
            raise RuntimeError("not now")
        self.forbidden.add(execution_id)
        known = self.workers.get(execution_id)
        if known is None:
            return Exited(detail="never started")
        known.terminations += 1
        if self.obedient:
            known.end(Exited(exit_code=143))
        await known.ended.wait()
        return known.exited

    async def read_logs(self, worker: WorkerRecord, *, offset: str, ended: bool) -> LogPage:
        del ended
        known = self.workers.get(worker.execution_id)
        lines = [] if known is None else known.lines[int(offset or 0) :]
        return LogPage(
            lines=lines, next_offset=str(int(offset or 0) + len(lines)) if lines else offset
        )

    async def list_workers(self) -> list[ExecutionId]:
        if self.list_errors:
            raise self.list_errors.pop(0)
        return [i for i, worker in self.workers.items() if not worker.ended.is_set()]

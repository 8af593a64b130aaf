"""The dev provisioner: nothing real is started; a person plays the worker over the API.

A worker runs from `provision` on. It ends a few checks after its execution has an outcome, as a
real one ends a little after its report, and nothing else ends it: a termination signal is noted,
and the person must still call `finish`.

What is known about a worker is its record and whether it has reported, which each process learns
again. So a worker outlives a restart of the Temporal worker.
"""

import asyncio
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final, Self

import structlog

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

logger = structlog.get_logger(__name__)

_LOG: Final = tuple(f"line-{number}" for number in range(100))
"""What every worker has printed."""


class _Worker:
    """What this process knows about a worker."""

    def __init__(self, *, lag: int) -> None:
        self.provisioned = False
        self.log_announced = False
        self.reported = asyncio.Event()
        self.ended = asyncio.Event()
        self._checks_left = lag
        self._checks: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Look at it once; the last of these looks ends it."""
        if not self.reported.is_set():
            return
        if self._checks_left:
            self._checks_left -= 1
        else:
            self.ended.set()

    async def until_ended(self, *, pause: float) -> None:
        """Check it every `pause` seconds from its report on, however many callers wait."""
        await self.reported.wait()
        if self._checks is None:
            self._checks = asyncio.create_task(self._keep_checking(pause))
        await self.ended.wait()

    async def _keep_checking(self, pause: float) -> None:
        while True:
            self.check()
            if self.ended.is_set():
                return
            await asyncio.sleep(pause)

    def seen(self) -> WorkerObservation:
        """Say how it was at the last check."""
        return self.exited() if self.ended.is_set() else Running()

    def exited(self) -> Exited:
        return Exited(detail="the execution has ended" if self.provisioned else "never started")

    async def close(self) -> None:
        """Stop checking it."""
        if self._checks is not None:
            self._checks.cancel()
            with suppress(asyncio.CancelledError):
                await self._checks


class DevProvisioner(Provisioner):
    """Makes workers that exist by name only.

    Args:
        lag: checks for which a worker still runs after its execution has an outcome.
        pause: seconds between checks.
    """

    kind: ClassVar[str] = "dev"
    follows_outcomes: ClassVar[bool] = True

    def __init__(self, *, lag: int = 5, pause: float = 1.0) -> None:
        self._pause = pause
        self._workers = defaultdict[ExecutionId, _Worker](lambda: _Worker(lag=lag))

    @classmethod
    def from_environment(cls, *, data_folder: Path | None = None) -> Self:
        """Build one; there is nothing to set."""
        return cls()

    async def close(self) -> None:
        """Stop checking workers. They can be played on."""
        for known in self._workers.values():
            await known.close()

    async def prepare(self, function: FunctionToPrepare) -> PreparedFunction:
        """Do nothing: every image will do."""
        return PreparedFunction(details={"type": "TEST", "identifier": "mocked"})

    async def provision(self, request: WorkerRequest) -> WorkerRecord:
        """Give the worker its name; from now on it can be played."""
        known = self._workers[request.execution_id]
        known.provisioned = known.provisioned or not known.ended.is_set()
        names = (
            request.project_name,
            request.version_id,
            request.function_name,
            request.invocation_id,
            request.execution_id,
        )
        return WorkerRecord(
            execution_id=request.execution_id,
            state={"id": request.execution_id, "started": known.provisioned},
            details={"type": "TEST", "identifier": "/".join(names), "logs_identifier": "mocked"},
        )

    async def observe(self, worker: WorkerRecord) -> WorkerObservation:
        """Check the worker once."""
        known = self._find(worker)
        known.check()
        return known.seen()

    async def wait(self, worker: WorkerRecord, *, timeout: float) -> WorkerObservation:
        """Check the worker until it has ended; the first call is answered at once, for its log."""
        known = self._find(worker)
        if not known.log_announced:
            known.log_announced = True
            return known.seen()
        with suppress(TimeoutError):
            await asyncio.wait_for(known.until_ended(pause=self._pause), timeout)
        return known.seen()

    async def terminate(
        self, execution_id: ExecutionId, worker: WorkerRecord | None, *, grace: float
    ) -> Exited:
        """Wait until the worker has ended by itself. One that never was ends here."""
        known = self._workers[execution_id] if worker is None else self._find(worker)
        if not known.provisioned:
            known.ended.set()
        elif not known.ended.is_set():
            logger.info("termination_signal_noted", execution_id=execution_id)
        if not known.ended.is_set():
            await known.until_ended(pause=self._pause)
        return known.exited()

    async def read_logs(self, worker: WorkerRecord, *, offset: str, ended: bool) -> LogPage:
        """Give the fixed lines, which are there from the start."""
        lines = list(_LOG[int(offset or 0) :])
        return LogPage(lines=lines, next_offset=str(len(_LOG)) if lines else offset, complete=True)

    async def list_workers(self) -> list[ExecutionId]:
        """Name none: of a worker that is not played any more nothing is left to end."""
        return []

    async def outcome_reported(self, execution_id: ExecutionId) -> None:
        """Let the worker end after its last checks."""
        self._workers[execution_id].reported.set()

    async def forget(self, execution_id: ExecutionId) -> None:
        """Drop what this process knows of the worker."""
        known = self._workers.pop(execution_id, None)
        if known is not None:
            known.ended.set()
            known.reported.set()
            await known.close()

    def _find(self, worker: WorkerRecord) -> _Worker:
        known = self._workers[worker.execution_id]
        # An earlier process may have made it, or refused to.
        known.provisioned = known.provisioned or worker.state["started"]
        if not known.provisioned:
            known.ended.set()
        return known

"""The external provisioner: asks a server of the operator's for workers, over HTTP.

The protocol has five calls and is described in docs/provisioners.md; `protocol` holds
their bodies. A worker is known by the details that the service gave to it. All that this class
remembers by itself are pauses, so a restart loses nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Self

import structlog

from core.bundles import BundleSource
from core.ids import ExecutionId
from core.settings import load
from provisioners.base import (
    Exited,
    FunctionToPrepare,
    LogPage,
    PreparedFunction,
    Provisioner,
    ProvisionerError,
    Running,
    Unknown,
    UnrecoverableProvisioningError,
    WorkerObservation,
    WorkerRecord,
    WorkerRequest,
)
from provisioners.external.client import (
    ExternalClient,
    UnclearAnswerError,
    UnreadableAnswerError,
    key_of_function,
    secrets_in,
)
from provisioners.external.logs import last_line, read_page
from provisioners.external.protocol import (
    LogsAnswer,
    LogsRequest,
    PrepareAnswer,
    PrepareRequest,
    ProvisionAnswer,
    ProvisionRequest,
    StatusAnswer,
    TerminateAnswer,
    WorkerQuestion,
)
from provisioners.external.settings import ExternalProvisionerSettings

LOG_SECONDS: Final = 3.0
"""How often the log of a worker that runs is looked at."""
LONGEST_PAUSE_SECONDS: Final = 30.0
"""Between two questions to a server that does not answer."""
_FIRST_PAUSE_SECONDS: Final = 0.5

_log = structlog.get_logger(__name__)


class _Backoff:
    """When the server may be asked again: pauses grow while its answers are errors."""

    def __init__(self) -> None:
        self._failures = 0
        self.next_at = 0.0

    def succeeded(self, *, pause: float) -> None:
        self._failures = 0
        self.next_at = _now() + pause

    def failed(self, error: ProvisionerError) -> None:
        pause: float = _FIRST_PAUSE_SECONDS * 2 ** min(self._failures, 10)
        self._failures += 1
        self.next_at = _now() + max(min(pause, LONGEST_PAUSE_SECONDS), error.retry_after or 0)


class _WorkerState:
    """What this process knows of a worker between two calls."""

    def __init__(self) -> None:
        self.status = _Backoff()
        self.logs = _Backoff()
        self.last: WorkerObservation = Running()
        self.terminate_accepted = False


@dataclass(frozen=True, kw_only=True)
class ExternalProvisionerConfig:
    """What the operator decides."""

    poll_seconds: float = 1.0
    """Pause between two questions about the state of a worker."""
    log_limit_bytes: int = 16 * 2**20
    """Output that is kept of one worker."""
    log_patience_seconds: float = 60.0
    """How long it is tried to read the logs of a worker that has ended."""


class ExternalProvisioner(Provisioner):
    """Asks a server for workers."""

    kind: ClassVar[str] = "external"
    terminates_by_id: ClassVar[bool] = False

    def __init__(self, client: ExternalClient, config: ExternalProvisionerConfig) -> None:
        self._client = client
        self._config = config
        self._states: dict[ExecutionId, _WorkerState] = {}

    @classmethod
    def from_environment(cls, *, data_folder: Path | None = None) -> Self:
        """Read `settings.ExternalProvisionerSettings`."""
        settings = load(ExternalProvisionerSettings)
        client = ExternalClient(
            settings.provisioner_api_url,
            settings.provisioner_api_key,
            timeout=settings.provisioner_timeout_seconds,
        )
        config = ExternalProvisionerConfig(
            poll_seconds=settings.provisioner_poll_seconds,
            log_limit_bytes=settings.provisioner_log_limit_mb * 2**20,
            log_patience_seconds=settings.provisioner_log_patience_seconds,
        )
        return cls(client, config)

    async def start(self, deployment: str, bundles: BundleSource) -> None:
        """Open the connection pool. The server need not be there yet."""
        self._client.open()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def prepare(self, function: FunctionToPrepare) -> PreparedFunction:
        """Ask `/prepare`.

        An unreadable answer to it is final: unlike one to `/provision`, it leaves nothing behind.
        """
        try:
            answer = await self._client.ask(
                "prepare",
                PrepareRequest.of(function),
                PrepareAnswer,
                key=key_of_function(function.version_id, function.function_name),
            )
        except UnreadableAnswerError as error:
            raise UnrecoverableProvisioningError(str(error)) from error
        return PreparedFunction(details=answer.prepared_function_details.model_dump(mode="json"))

    async def provision(self, request: WorkerRequest) -> WorkerRecord:
        """Ask `/provision`. That a repetition adopts the worker is the server's promise.

        Only the server's clear refusal is final. Whatever else it answers, there may be a worker,
        which the same request will find.

        A worker of a type that clients cannot read is given as it is: the caller ends it.
        """
        if request.prepared_details is None:
            raise UnrecoverableProvisioningError(
                "The function was prepared by another provisioner. Register a new version"
            )
        answer = await self._client.ask(
            "provision",
            ProvisionRequest.of(request),
            ProvisionAnswer,
            key=f"{request.execution_id}-provision",
            secrets=secrets_in(request.environment),
        )
        details = answer.worker_details.model_dump()
        return WorkerRecord(
            execution_id=request.execution_id, state={"id": details["identifier"]}, details=details
        )

    async def observe(self, worker: WorkerRecord) -> WorkerObservation:
        """Ask `/check_status`; every failure means that nothing is known."""
        try:
            return await self._check_status(worker)
        except ProvisionerError as error:
            return Unknown(detail=str(error))

    async def wait(self, worker: WorkerRecord, *, timeout: float) -> WorkerObservation:
        """Ask `/check_status` in turns, more and more rarely while it fails."""
        state = self._state_of(worker.execution_id)
        pause = timeout if isinstance(state.last, Unknown) else min(timeout, LOG_SECONDS)
        end = _now() + pause
        while True:
            await asyncio.sleep(min(state.status.next_at, end) - _now())
            if state.status.next_at > end:
                return state.last
            try:
                state.last = await self._check_status(worker)
                state.status.succeeded(pause=self._config.poll_seconds)
            except ProvisionerError as error:
                state.last = Unknown(detail=str(error))
                state.status.failed(error)
            if isinstance(state.last, Exited):
                return state.last

    async def terminate(
        self, execution_id: ExecutionId, worker: WorkerRecord | None, *, grace: float
    ) -> Exited:
        """Ask `/terminate` once, then `/check_status` until the worker is gone.

        The protocol has no force: how long a worker may take is the server's decision, and `grace`
        is not used.
        """
        if worker is None:
            raise ProvisionerError("Without its details the provisioner cannot end a worker")
        state = self._state_of(execution_id)
        try:
            if not state.terminate_accepted:
                await self._ask_to_terminate(worker)
                state.terminate_accepted = True
            while True:
                seen = await self._check_status(worker)
                if isinstance(seen, Exited):
                    return seen
                await asyncio.sleep(self._config.poll_seconds)
        except UnrecoverableProvisioningError as error:
            # Nothing is final before the worker is known to be gone.
            raise ProvisionerError(str(error)) from error

    async def read_logs(self, worker: WorkerRecord, *, offset: str, ended: bool) -> LogPage:
        """Ask `/get_logs`.

        A failure while the worker runs gives an empty page: they are read later. After its end they
        are asked for again until the operator's patience is over; then a last line says what went
        wrong, for a log must not keep an invocation open.
        """
        logs = self._state_of(worker.execution_id).logs
        patience_ends = _now() + self._config.log_patience_seconds
        fetch = self._log_reader(worker)
        while ended or logs.next_at <= _now():
            try:
                page = await read_page(
                    fetch, offset=offset, limit_bytes=self._config.log_limit_bytes
                )
            except ProvisionerError as error:
                logs.failed(error)
                if not ended:
                    _log.warning(
                        "logs_not_read", execution_id=worker.execution_id, detail=str(error)
                    )
                elif _now() >= patience_ends:
                    return last_line(offset, f"logs could not be read: {error}")
                else:
                    await asyncio.sleep(min(logs.next_at, patience_ends) - _now())
                continue
            logs.succeeded(pause=0)
            return page
        return LogPage(lines=[], next_offset=offset)

    async def list_workers(self) -> list[ExecutionId]:
        """Name none: the protocol has no such call."""
        return []

    async def forget(self, execution_id: ExecutionId) -> None:
        """Forget the pauses. When the server deletes what it keeps is its own decision."""
        self._states.pop(execution_id, None)

    async def _check_status(self, worker: WorkerRecord) -> Running | Exited:
        answer = await self._client.ask(
            "check_status",
            WorkerQuestion.of(worker),
            StatusAnswer,
            key=f"{worker.execution_id}-check_status",
        )
        if answer.worker_status == "TERMINATED":
            return Exited(detail="the external provisioner says that it has ended")
        return Running()

    async def _ask_to_terminate(self, worker: WorkerRecord) -> None:
        try:
            await self._client.ask(
                "terminate",
                WorkerQuestion.of(worker),
                TerminateAnswer,
                key=f"{worker.execution_id}-terminate",
            )
        except (UnrecoverableProvisioningError, UnclearAnswerError):
            # Perhaps because it has ended.
            if not isinstance(await self.observe(worker), Exited):
                raise

    def _log_reader(self, worker: WorkerRecord) -> Callable[[str | None], Awaitable[LogsAnswer]]:
        async def fetch(cursor: str | None) -> LogsAnswer:
            return await self._client.ask(
                "get_logs",
                LogsRequest(worker_details=worker.details or {}, initial_offset=cursor),
                LogsAnswer,
                key=f"{worker.execution_id}-get_logs",
            )

        return fetch

    def _state_of(self, execution_id: ExecutionId) -> _WorkerState:
        return self._states.setdefault(execution_id, _WorkerState())


def _now() -> float:
    return asyncio.get_running_loop().time()

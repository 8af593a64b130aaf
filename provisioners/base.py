"""What a provisioner is: the contract between the control plane and one kind of compute.

To add a provisioner, write a subclass of `Provisioner`, register it under the entry-point group
`control_plane.provisioners`, and run the conformance suite (`provisioners/conformance.py`)
on it. Of the server's code nothing else changes (docs/provisioners.md).

Rules for all methods:

- Each may be called again after a crash, with the same arguments, and must then find its own
  earlier work. The execution id is the name to find it by.
- The control plane's truth about a worker is what these methods answer. *Unknown* is never taken
  for *gone*: a worker counts as gone only when the provisioner says so.
- A method raises `ProvisionerError` for what may work when tried again, and
  `UnrecoverableProvisioningError` for what will not. The text is shown to users and is kept in
  Temporal's history: no secrets in it. Any other exception is treated as a `ProvisionerError`.
- Each try has a time limit: `prepare` 30 minutes, `provision` 5 minutes, `terminate` 2 hours. After
  a failure or at the limit the call is repeated, with pauses of up to 15 seconds and without end:
  until it works, fails for good, or (`prepare`, `provision`) it is not needed any more.
- All methods share one event loop with the heartbeats of every worker. Calls that block belong into
  threads (`asyncio.to_thread`).
- A method may be cancelled (asyncio) at any await and must then leave nothing half-made that a
  later call would not find.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from core.bundles import BundleSource
from core.ids import ExecutionId, InvocationId, VersionId
from core.states import Cause


class ProvisionerError(Exception):
    """A call failed in a way that may pass: it is tried again with a growing pause.

    Args:
        message: one line for a person.
        retry_after: seconds that the other side asked to be left alone; None for the usual pause.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnrecoverableProvisioningError(ProvisionerError):
    """A call failed for good: the preparation or the execution ends with this text.

    From `provision` it also says that no call for this execution has made a worker: `terminate` is
    not called, and the next attempt may begin at once. If that is not certain, it is a
    `ProvisionerError`.
    """


@dataclass(frozen=True, kw_only=True)
class ResourceSpec:
    """What one worker gets."""

    virtual_cpus: float
    """Share of CPU time, in cores."""
    memory_gbs: float
    """Memory in GiB (2**30 bytes)."""
    max_concurrency: int = 1
    """How many workers of the function there may be at once, for compute that plans ahead."""


@dataclass(frozen=True, kw_only=True)
class FunctionToPrepare:
    """A function whose workers will be asked for later."""

    project_name: str
    version_id: VersionId
    function_name: str
    docker_image: str
    resource_spec: ResourceSpec


@dataclass(frozen=True, kw_only=True)
class PreparedFunction:
    """The answer of `prepare`."""

    details: dict[str, str] | None = None
    """The contract's `prepared_function_details`: exactly `type` and `identifier`.

    `type` must be TEST or AWS_ECS: existing clients refuse any other value, and so does the server,
    as a failure for good. None where the compute is neither.
    """


@dataclass(frozen=True, kw_only=True)
class WorkerRequest:
    """One execution that needs a worker."""

    project_name: str
    version_id: VersionId
    function_name: str
    invocation_id: InvocationId
    execution_id: ExecutionId
    attempt: int
    """1 for the first execution of an invocation."""
    docker_image: str
    resource_spec: ResourceSpec
    prepared_details: dict[str, str] | None
    environment: dict[str, str]
    """The variables that the worker must get: its identity, the API's address, its token."""


@dataclass(frozen=True, kw_only=True)
class WorkerRecord:
    """A worker as its provisioner made it; stored, and handed back to the other methods."""

    execution_id: ExecutionId
    state: dict[str, Any]
    """JSON for the provisioner's own use, shown to operators: no secrets."""
    details: dict[str, str] | None = None
    """The contract's `worker_details`: exactly `type`, `identifier` and `logs_identifier`.

    `type` must be TEST or AWS_ECS, as for `PreparedFunction.details`; None where the compute is
    neither.
    """


@dataclass(frozen=True, kw_only=True)
class Running:
    """The worker exists, or is about to."""


@dataclass(frozen=True, kw_only=True)
class Exited:
    """The worker is gone, and everything it started with it."""

    exit_code: int | None = None
    """Its exit status, 128 + signal number if a signal ended it; None if it cannot be known."""
    cause: Cause | None = None
    """What the provisioner knows better than the registry, e.g. `Cause.OUT_OF_MEMORY`."""
    detail: str | None = None
    """One line for a person."""


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """The provisioner cannot tell at the moment."""

    detail: str


WorkerObservation = Running | Exited | Unknown


@dataclass(frozen=True, kw_only=True)
class LogPage:
    """Complete lines of a worker's output, in order."""

    lines: list[str]
    next_offset: str
    """Where to go on, in the provisioner's own words (the index of a byte, a cursor).

    A page without lines must give the offset that was asked for. The copying of logs goes on until
    a page is empty and its offset has not moved.
    """
    complete: bool = False
    """Whether no line will ever follow, although the worker may still run."""


class Provisioner(ABC):
    """Prepares functions and starts, watches and stops workers on one kind of compute."""

    kind: ClassVar[str]
    """The name on the command line (`--provisioner=KIND`) and in the registry; lower case.

    It must equal the name of the entry point; otherwise the class is refused.
    """

    terminates_by_id: ClassVar[bool] = True
    """False if a worker can be ended only with the record that `provision` gave.

    To end a worker whose record was lost in a crash, `provision` is then repeated first: it adopts
    the worker, or makes one that is ended at once. If it answers with
    `UnrecoverableProvisioningError`, there is none. `terminate` always gets a record.
    """

    follows_outcomes: ClassVar[bool] = False
    """True if `outcome_reported` is to be called: for compute that does not see its workers end."""

    @classmethod
    @abstractmethod
    def from_environment(cls, *, data_folder: Path | None = None) -> Self:
        """Build one from the environment variables that this kind reads.

        Use a settings class of its own and `core.settings.load`. Nothing is contacted or made yet.

        Args:
            data_folder: where `control-plane up` keeps its data, which may not exist yet; None in
                other processes. A kind that keeps state on this machine does so in a folder of its
                own in there, unless its variables name another. Other kinds ignore it.

        Raises:
            core.settings.SettingsError: a variable is missing or wrong; one line that names it.
        """

    async def start(self, deployment: str, bundles: BundleSource) -> None:  # noqa: B027 - optional hook
        """Get ready to be called (open clients, check the machine). Called once per process.

        Args:
            deployment: name of this control plane, the same after each restart: letters, digits and
                dashes. Workers are kept apart by it where several control planes share compute.
            bundles: where code bundles are read, the images like `bundle://...`. Ignored by compute
                that does not run them.

        Raises:
            ProvisionerError: it cannot be used here; the Temporal worker ends with this text.
        """

    async def close(self) -> None:  # noqa: B027 - optional hook
        """Release what `start` opened. Workers stay as they are."""

    @abstractmethod
    async def prepare(self, function: FunctionToPrepare) -> PreparedFunction:
        """Make sure that workers of this function can be provisioned.

        Raises:
            ProvisionerError: it may work later.
            UnrecoverableProvisioningError: it never will (e.g. the image does not exist).
        """

    @abstractmethod
    async def provision(self, request: WorkerRequest) -> WorkerRecord:
        """Create the worker of an execution, or adopt the one an earlier call has created.

        A worker that was created earlier and has ended meanwhile is adopted too: it is not
        started again. After `terminate` for the same execution nothing may be started.

        Raises:
            ProvisionerError: it may work later, or it is not certain that there is no worker.
            UnrecoverableProvisioningError: it never will, and there is no worker; this execution
                has failed.
        """

    @abstractmethod
    async def observe(self, worker: WorkerRecord) -> WorkerObservation:
        """Say at once how the worker is. Never raises for a worker that is gone."""

    @abstractmethod
    async def wait(self, worker: WorkerRecord, *, timeout: float) -> WorkerObservation:
        """Return as soon as the worker is gone, or after `timeout` seconds with how it is then.

        Also returns early, with `Running`, when there may be new log lines.
        """

    @abstractmethod
    async def terminate(
        self, execution_id: ExecutionId, worker: WorkerRecord | None, *, grace: float
    ) -> Exited:
        """Ask the worker to stop, wait `grace` seconds, force it, and return when it is gone.

        Idempotent: a second call does not repeat the polite request and does not prolong the grace.
        A worker that does not exist is fine. `worker` is None if no provisioning has succeeded;
        the provisioner then goes by the execution id, and makes sure that nothing starts later.

        Raises:
            ProvisionerError: it cannot be confirmed that the worker is gone. Called again later.
        """

    @abstractmethod
    async def read_logs(self, worker: WorkerRecord, *, offset: str, ended: bool) -> LogPage:
        """Read output lines from `offset` ("" = start; otherwise an earlier `next_offset`).

        While the worker runs only complete lines are returned; with `ended` the last, incomplete
        one too. At most about 1 MiB per call.
        """

    @abstractmethod
    async def list_workers(self) -> list[ExecutionId]:
        """Name the executions whose workers, or what is left of them, may still exist.

        Only those that this deployment has made. The sweep ends and forgets the ones that belong to
        no open execution. Compute that cannot be asked gives an empty list.
        """

    async def outcome_reported(self, execution_id: ExecutionId) -> None:  # noqa: B027 - optional hook
        """Learn that the worker has reported its outcome; only with `follows_outcomes`.

        May come more than once, and in another process than `provision`.
        """

    async def forget(self, execution_id: ExecutionId) -> None:  # noqa: B027 - optional hook
        """Delete what is left of a worker that is gone.

        Called after its exit and the last of its logs are in the registry, and after `provision`
        has failed for good. It may come twice, for a worker that never was, or never (the Temporal
        worker may end just before): nothing may depend on it but space.
        """

"""What the server says, as objects.

The names of the fields are those of the JSON, which docs/api.md explains. Words for states
(`phase`, `cause`, ...) are plain strings, since a newer server may know more of them. Fields that a
server does not send are None. Each object keeps what it was read from in `raw`.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Model:
    """Base of all objects that are read from an answer."""

    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The JSON object, with all that this version of the library does not know."""

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """Make an object from JSON.

        Raises:
            KeyError: a field is missing that every server sends.
            TypeError: a part is no object or no array where it has to be.
        """
        values: dict[str, Any] = {"raw": content}
        for name, read, is_required in _plan(cls):
            value = content.get(name)
            if value is not None:
                values[name] = read(value)
            elif is_required:
                raise KeyError(name)
        return cls(**values)


_Plan = list[tuple[str, Callable[[Any], Any], bool]]
_plans: dict[type, _Plan] = {}


def _plan(kind: type[Model]) -> _Plan:
    """Give name, reader and whether it is required, of each field."""
    if kind not in _plans:
        hints = get_type_hints(kind)
        _plans[kind] = [
            (
                each.name,
                _reader(hints[each.name]),
                each.default is MISSING and each.default_factory is MISSING,
            )
            for each in fields(kind)
            if each.name != "raw"
        ]
    return _plans[kind]


def _reader(hint: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - a type of any form
    if get_origin(hint) is UnionType:
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if hint is datetime:
        return lambda seconds: datetime.fromtimestamp(seconds, UTC)
    if get_origin(hint) is tuple:
        read_item = _reader(get_args(hint)[0])
        return lambda items: tuple(read_item(item) for item in items)
    if isinstance(hint, type) and issubclass(hint, Model):
        return hint.read
    return lambda value: value


@dataclass(frozen=True, kw_only=True)
class Project(Model):
    """A project."""

    project_name: str
    creation_time: datetime
    deletion_request_time: datetime | None = None
    """When it was first asked to be deleted. It goes once nothing runs in it."""


@dataclass(frozen=True, kw_only=True)
class ResourceSpec(Model):
    """What each worker of a function gets, and how many there may be at once."""

    virtual_cpus: float
    memory_gbs: float
    """GiB."""
    max_concurrency: int


@dataclass(frozen=True, kw_only=True)
class ExecutionSpec(Model):
    """How often and how long an invocation is tried."""

    max_retries: int
    timeout_seconds: int


@dataclass(frozen=True, kw_only=True)
class RetrySpec(Model):
    """How long to wait between the attempts of an invocation."""

    initial_interval_seconds: int = 1
    backoff_coefficient: float = 1.0
    maximum_interval_seconds: int | None = None


@dataclass(frozen=True, kw_only=True)
class Preparation(Model):
    """How far the preparation of a function is: PENDING, READY or FAILED."""

    status: str
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class FunctionInfo(Model):
    """A function of a version."""

    function_name: str
    docker_image: str
    resource_spec: ResourceSpec
    execution_spec: ExecutionSpec
    retry_spec: RetrySpec | None = None
    function_status: str
    """PENDING or READY; `preparation` tells of one that has FAILED."""
    preparation: Preparation | None = None


@dataclass(frozen=True, kw_only=True)
class VersionSummary(Model):
    """A version in a list."""

    version_id: str
    creation_time: datetime


@dataclass(frozen=True, kw_only=True)
class Version(Model):
    """A version with its functions."""

    project_name: str
    version_id: str
    creation_time: datetime
    functions: tuple[FunctionInfo, ...]


@dataclass(frozen=True, kw_only=True)
class BundleInfo(Model):
    """A code bundle that was announced."""

    digest: str
    """`bundle://` with the digest is an image for a version."""
    missing_pieces: tuple[str, ...]
    """SHA-256 of each piece that is still to be uploaded."""


@dataclass(frozen=True, kw_only=True)
class InvocationPath:
    """The names that lead to an invocation."""

    project_name: str
    version_id: str
    function_name: str
    invocation_id: str


@dataclass(frozen=True, kw_only=True)
class Parent(Model):
    """The invocation that has made another one."""

    function_name: str
    invocation_id: str


@dataclass(frozen=True, kw_only=True)
class Worker(Model):
    """The worker of an execution."""

    provisioner: str
    id: str | None = None
    host: str | None = None
    exit_code: int | None = None
    cause: str | None = None


@dataclass(frozen=True, kw_only=True)
class Execution(Model):
    """One attempt at an invocation."""

    execution_id: str
    attempt: int = 1
    worker_status: str
    """PENDING, PROVISIONING, RUNNING or TERMINATED."""
    outcome: str | None = None
    """SUCCEEDED, FAILED or ABORTED, as the worker reported it."""
    cause: str | None = None
    """Why it ended; None while its worker is not TERMINATED."""
    output: str | None = None
    """The final output, or the latest one before that: JSON text."""
    error_message: str | None = None
    progress: Mapping[str, Any] | None = None
    """What the function has last reported with `progress(...)`."""
    creation_time: datetime
    last_update_time: datetime
    execution_start_time: datetime | None = None
    execution_finish_time: datetime | None = None
    termination_signal_time: datetime | None = None
    worker: Worker | None = None
    temporal_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class InvocationSummary(Model):
    """An invocation in a list."""

    invocation_id: str
    parent_invocation: Parent | None = None
    cancellation_request_time: datetime | None = None
    invocation_status: str
    """RUNNING or TERMINATED."""
    phase: str
    phase_detail: str | None = None
    creation_time: datetime
    last_update_time: datetime
    attempts: int | None = None
    """How many executions it has had, in a list; otherwise None: look at `executions`."""
    temporal_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class ChildInvocation(InvocationSummary):
    """An invocation in a list of those that one invocation has made."""

    function_name: str


@dataclass(frozen=True, kw_only=True)
class InvocationInfo(InvocationSummary):
    """One call of a function, with its executions."""

    project_name: str
    version_id: str
    function_name: str
    input: str
    resource_spec: ResourceSpec
    execution_spec: ExecutionSpec
    executions: tuple[Execution, ...]
    """Oldest first."""
    queue_position: int | None = None

    @property
    def path(self) -> InvocationPath:
        """The names that lead here."""
        return InvocationPath(
            project_name=self.project_name,
            version_id=self.version_id,
            function_name=self.function_name,
            invocation_id=self.invocation_id,
        )

    @property
    def has_ended(self) -> bool:
        """Whether it is TERMINATED: nothing changes any more."""
        return self.invocation_status == "TERMINATED"

    @property
    def output(self) -> str | None:
        """The latest output of the latest execution that has one: JSON text."""
        texts = (execution.output for execution in reversed(self.executions))
        return next((text for text in texts if text is not None), None)

    @property
    def progress(self) -> Mapping[str, Any] | None:
        """What the latest execution has last reported."""
        return self.executions[-1].progress if self.executions else None


@dataclass(frozen=True, kw_only=True)
class InvocationPage(Model):
    """A page of a function's invocations, newest first."""

    project_name: str
    version_id: str
    function_name: str
    invocations: tuple[InvocationSummary, ...]
    next_offset: str | None = None
    """Where the next page begins; None on the last one."""


@dataclass(frozen=True, kw_only=True)
class ChildPage(Model):
    """A page of the invocations that an invocation has made, newest first."""

    project_name: str
    version_id: str
    function_name: str
    """The function of the invocation that has made them."""
    invocation_id: str
    invocations: tuple[ChildInvocation, ...]
    next_offset: str | None = None
    """Where the next page begins; None on the last one."""


@dataclass(frozen=True, kw_only=True)
class LogPage(Model):
    """A page of an execution's output."""

    log_lines: tuple[str, ...]
    next_offset: str | None = None
    """Where to go on; None once all has been read, and while there is no worker yet."""

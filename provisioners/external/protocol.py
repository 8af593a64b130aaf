"""What is said to an external provisioner, and what it may answer: the bodies of the five calls.

The names are those of an HTTP protocol that provisioner servers already speak; see
docs/provisioners.md. Keys that are not listed are ignored in answers.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from core.contract.workers import WorkerType
from provisioners.base import FunctionToPrepare, WorkerRecord, WorkerRequest
from provisioners.base import ResourceSpec as Resources

MAX_LOG_LINES = 250
"""Lines that one `/get_logs` asks for."""


def storable(value: object) -> object:
    """Replace in a text what Postgres does not store: NUL, and halves of surrogate pairs."""
    if not isinstance(value, str):
        return value
    text = value.replace("\0", "\ufffd")
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _without_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    return value


Identifier = Annotated[str, Field(max_length=4096), AfterValidator(_without_nul)]
"""A name that the server gives to something of its own."""
LogLine = Annotated[str, BeforeValidator(storable)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class ResourceSpec(_Message):
    """The contract's resource spec."""

    virtual_cpus: float
    memory_gbs: float
    max_concurrency: int

    @classmethod
    def of(cls, spec: Resources) -> Self:
        """Take it over from the provisioner contract."""
        return cls(
            virtual_cpus=spec.virtual_cpus,
            memory_gbs=spec.memory_gbs,
            max_concurrency=spec.max_concurrency,
        )


class PreparedFunctionDetails(_Message):
    """The server's name for a function."""

    type: WorkerType
    identifier: Identifier


class WorkerDetails(_Message):
    """The server's names for a worker.

    Any type is read: a worker of a type that clients cannot read must be ended, and for that its
    details are needed.
    """

    type: Identifier
    identifier: Identifier
    logs_identifier: Identifier


class PrepareRequest(_Message):
    """Body of `/prepare`."""

    project_name: str
    version_id: str
    function_name: str
    docker_image: str
    resource_spec: ResourceSpec

    @classmethod
    def of(cls, function: FunctionToPrepare) -> Self:
        """Ask for this function."""
        return cls(
            project_name=function.project_name,
            version_id=function.version_id,
            function_name=function.function_name,
            docker_image=function.docker_image,
            resource_spec=ResourceSpec.of(function.resource_spec),
        )


class ProvisionRequest(_Message):
    """Body of `/provision`. `environment` is an addition; servers may ignore it."""

    project_name: str
    version_id: str
    function_name: str
    invocation_id: str
    execution_id: str
    resource_spec: ResourceSpec
    prepared_function_details: dict[str, Any] | None
    environment: dict[str, str]

    @classmethod
    def of(cls, request: WorkerRequest) -> Self:
        """Ask for the worker of this execution."""
        return cls(
            project_name=request.project_name,
            version_id=request.version_id,
            function_name=request.function_name,
            invocation_id=request.invocation_id,
            execution_id=request.execution_id,
            resource_spec=ResourceSpec.of(request.resource_spec),
            prepared_function_details=request.prepared_details,
            environment=request.environment,
        )


class WorkerQuestion(_Message):
    """Body of `/terminate` and `/check_status`."""

    worker_details: dict[str, str]

    @classmethod
    def of(cls, worker: WorkerRecord) -> Self:
        """Name this worker."""
        return cls(worker_details=worker.details or {})


class LogsRequest(WorkerQuestion):
    """Body of `/get_logs`."""

    max_lines: int = MAX_LOG_LINES
    initial_offset: str | None = None


class PrepareAnswer(_Message):
    """Answer of `/prepare`."""

    prepared_function_details: PreparedFunctionDetails


class ProvisionAnswer(_Message):
    """Answer of `/provision`."""

    worker_details: WorkerDetails


class TerminateAnswer(_Message):
    """Answer of `/terminate`: any object."""


class StatusAnswer(_Message):
    """Answer of `/check_status`; all but TERMINATED mean that the worker exists."""

    worker_status: Literal["PENDING", "PROVISIONING", "RUNNING", "TERMINATED"]


class LogsAnswer(_Message):
    """Answer of `/get_logs`."""

    log_lines: list[LogLine]
    next_offset: Annotated[str, Field(max_length=16_384)] | None = None
    """Where to go on; null if the server has no cursor (yet)."""


class ErrorAnswer(_Message):
    """What an answer other than 2xx should be."""

    detail: Annotated[str, BeforeValidator(storable)]

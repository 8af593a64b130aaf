"""Functions: what users declare about them, and what the server says about them."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from core.contract.base import (
    ContractModel,
    NameText,
    PoolText,
    at_least,
    at_most,
    non_negative,
    positive,
)
from core.contract.workers import PreparedFunctionDetails
from core.states import FunctionStatus, PreparationStatus


class ResourceSpec(ContractModel):
    """What each worker of a function gets, and how many there may be at once."""

    virtual_cpus: Annotated[
        float,
        Field(
            allow_inf_nan=False,
            json_schema_extra={"exclusiveMinimum": 0, "maximum": 16},
        ),
        AfterValidator(positive),
        AfterValidator(at_most(16)),
    ]
    """CPU cores of one worker."""
    memory_gbs: Annotated[
        float,
        Field(
            allow_inf_nan=False,
            json_schema_extra={"exclusiveMinimum": 0, "maximum": 64},
        ),
        AfterValidator(positive),
        AfterValidator(at_most(64)),
    ]
    """Memory of one worker in GiB."""
    max_concurrency: Annotated[
        int,
        Field(json_schema_extra={"minimum": 1, "maximum": 100}),
        AfterValidator(positive),
        AfterValidator(at_most(100)),
    ]
    """Executions of this function, in this version, that may be open at once."""


class ExecutionSpec(ContractModel):
    """How often and how long an invocation of a function is tried."""

    max_retries: Annotated[
        int,
        Field(json_schema_extra={"minimum": 0, "maximum": 50}),
        AfterValidator(non_negative),
        AfterValidator(at_most(50)),
    ]
    """Further attempts after a failed one."""
    timeout_seconds: Annotated[
        int,
        Field(json_schema_extra={"minimum": 1, "maximum": 86_400}),
        AfterValidator(positive),
        AfterValidator(at_most(86_400)),
    ]
    """Seconds from the invocation's creation, waiting and earlier attempts included."""


class RetrySpec(ContractModel):
    """How long to wait between the attempts of an invocation."""

    initial_interval_seconds: Annotated[
        int,
        Field(json_schema_extra={"minimum": 1, "maximum": 86_400}),
        AfterValidator(positive),
        AfterValidator(at_most(86_400)),
    ] = 1
    """Seconds between the end of the first attempt and the second; 1 is the shortest there is."""
    backoff_coefficient: Annotated[
        float,
        Field(allow_inf_nan=False, json_schema_extra={"minimum": 1, "maximum": 100}),
        AfterValidator(at_least(1)),
        AfterValidator(at_most(100)),
    ] = 1.0
    """Each further pause is longer by this factor."""
    maximum_interval_seconds: (
        Annotated[
            int,
            Field(json_schema_extra={"minimum": 1, "maximum": 86_400}),
            AfterValidator(positive),
            AfterValidator(at_most(86_400)),
        ]
        | None
    ) = None
    """No pause is longer than so many seconds; null for a day."""

    @model_validator(mode="after")
    def _maximum_is_no_less_than_the_first(self) -> Self:
        maximum = self.maximum_interval_seconds
        if maximum is not None and maximum < self.initial_interval_seconds:
            raise ValueError(
                "maximum_interval_seconds must not be less than initial_interval_seconds"
            )
        return self


class FunctionSpec(ContractModel):
    """One function of a version that is being registered."""

    function_name: NameText
    docker_image_override: NameText | None = None
    """The image of this function; absent or null for the version's default image."""
    resource_spec: ResourceSpec
    execution_spec: ExecutionSpec
    retry_spec: RetrySpec | None = None
    """Absent or null: each next attempt follows as soon as the engine allows, after a second."""
    pool: PoolText | None = None
    """Where its executions run: the name of a provisioner kind. Absent or null: the API's kind."""


class Preparation(ContractModel):
    """How far the preparation of a function is."""

    status: PreparationStatus
    """FAILED means that it never will be READY; `function_status` stays PENDING then."""
    error: str | None
    """Why the preparation failed, or what is in its way while it is tried again."""


class FunctionInfoForVersion(ContractModel):
    """One function of a version."""

    function_name: str
    docker_image: str
    """The function's own image or the version's default image."""
    resource_spec: ResourceSpec
    execution_spec: ExecutionSpec
    retry_spec: RetrySpec | None
    """As registered; null for the shortest pauses."""
    pool: str
    """Where its executions run: the name of a provisioner kind."""
    function_status: FunctionStatus
    """Invocations are accepted in both states; they wait while it is PENDING."""
    prepared_function_details: PreparedFunctionDetails | None
    preparation: Preparation

"""What belongs to no resource: health, registry credentials, the shape of errors."""

from typing import Any

from pydantic import Field

from core.contract.base import ContractModel


class HealthStatus(ContractModel):
    """The API process answers."""

    status: str


class ContainerRepositoryCredentials(ContractModel):
    """Where images are pushed to."""

    repository_name: str
    username: str
    password: str
    endpoint_url: str


class ErrorMessage(ContractModel):
    """The body of every error but a 422."""

    detail: str
    """The exact text is part of the contract."""


class ValidationProblem(ContractModel):
    """One thing that is wrong with a request."""

    type: str
    """A stable word, e.g. `missing` or `value_error`."""
    loc: list[str | int]
    """Where: starts with `body`, `query` or `path`."""
    msg: str
    input: Any = None
    """The value that was refused; left out when it is large."""
    ctx: dict[str, Any] = Field(default={})
    """Values that the message was made from."""


class ValidationProblems(ContractModel):
    """The body of a 422."""

    detail: list[ValidationProblem]

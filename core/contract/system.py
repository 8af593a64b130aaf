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


class TemporalUiLinkDefinition(ContractModel):
    """Which page of Temporal's web UI is to be opened."""

    invocation_id: str | None = Field(default=None, pattern="^inv-[0-9a-f]{32}$")
    """The page of this invocation; null: the list of all."""


class TemporalUiLink(ContractModel):
    """An address for a browser."""

    url: str
    """Where the web UI asks for a login, this one has it in it: once, and for five minutes."""


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

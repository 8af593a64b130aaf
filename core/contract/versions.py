"""Versions of a project."""

from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field

from core.contract.base import ContractModel, EpochSeconds, NameText
from core.contract.functions import FunctionInfoForVersion, FunctionSpec
from core.ids import VersionId

MAX_FUNCTIONS: Final = 1000
"""Functions in one version."""


def parse_version_reference(reference: str) -> VersionId | None:
    """Read the version in a path: None for `latest` (in any letter case), else a version id."""
    return None if reference.lower() == "latest" else VersionId(reference)


def _count_functions(functions: object) -> object:
    # Before they are looked at: each of a million wrong ones would be a problem to describe.
    if isinstance(functions, list) and len(functions) > MAX_FUNCTIONS:
        raise ValueError(f"functions must not exceed {MAX_FUNCTIONS}")
    return functions


def _check_functions(functions: list[FunctionSpec]) -> list[FunctionSpec]:
    if len({function.function_name for function in functions}) < len(functions):
        raise ValueError("function_name values must be distinct")
    return functions


class VersionDefinition(ContractModel):
    """A version that is being registered, with all its functions."""

    default_docker_image: NameText
    """The image of every function that names none of its own."""
    functions: Annotated[
        list[FunctionSpec],
        BeforeValidator(_count_functions),
        AfterValidator(_check_functions),
        Field(json_schema_extra={"maxItems": MAX_FUNCTIONS}),
    ]
    """May be empty. The names must be distinct."""


class VersionInfo(ContractModel):
    """A version with its functions."""

    project_name: str
    version_id: str
    creation_time: EpochSeconds
    """Epoch seconds."""
    functions: list[FunctionInfoForVersion]
    """In the order in which they were registered."""


class VersionSummary(ContractModel):
    """A version in a list."""

    version_id: str
    creation_time: EpochSeconds
    """Epoch seconds."""


class VersionsListForProject(ContractModel):
    """All versions of a project."""

    project_name: str
    versions: list[VersionSummary]
    """Newest first."""

"""Rules VAL, OFF-1, REF-1 and RND-1, without a server."""

from typing import Any

import pytest
from pydantic import ValidationError

from core import ids
from core.contract.executions import ExecutionFinalResult, ExecutionTemporaryResult
from core.contract.functions import ExecutionSpec, ResourceSpec
from core.contract.invocations import InvocationDefinition
from core.contract.paging import InvocationOffset, page_size, parse_log_offset
from core.contract.versions import VersionDefinition, parse_version_reference
from core.errors import OffsetIsInvalidError

RESOURCES = {"virtual_cpus": 0.1, "memory_gbs": 0.256, "max_concurrency": 1}
LIMITS = {"max_retries": 0, "timeout_seconds": 1}


def test_val_1_valid_specs_are_accepted() -> None:
    ResourceSpec(virtual_cpus=16, memory_gbs=64, max_concurrency=100)
    ExecutionSpec(max_retries=50, timeout_seconds=86_400)
    function = {"resource_spec": RESOURCES, "execution_spec": LIMITS}
    version = VersionDefinition.model_validate(
        {
            "default_docker_image": "image:1",
            "functions": [
                {"function_name": "one", **function},
                {"function_name": "two", "docker_image_override": "own:1", **function},
            ],
        }
    )
    overrides = [spec.docker_image_override for spec in version.functions]
    assert overrides == [None, "own:1"]


@pytest.mark.parametrize(
    ("model", "field", "value", "message"),
    [
        (ResourceSpec, "virtual_cpus", -1, "virtual_cpus must be positive"),
        (ResourceSpec, "virtual_cpus", 0, "virtual_cpus must be positive"),
        (ResourceSpec, "virtual_cpus", 16.01, "virtual_cpus must not exceed 16"),
        (ResourceSpec, "memory_gbs", -1, "memory_gbs must be positive"),
        (ResourceSpec, "memory_gbs", 64.5, "memory_gbs must not exceed 64"),
        (ResourceSpec, "max_concurrency", -1, "max_concurrency must be positive"),
        (ResourceSpec, "max_concurrency", 0, "max_concurrency must be positive"),
        (ResourceSpec, "max_concurrency", 101, "max_concurrency must not exceed 100"),
        (ExecutionSpec, "timeout_seconds", -1, "timeout_seconds must be positive"),
        (ExecutionSpec, "timeout_seconds", 0, "timeout_seconds must be positive"),
        (ExecutionSpec, "timeout_seconds", 86_401, "timeout_seconds must not exceed 86400"),
        (ExecutionSpec, "max_retries", -1, "max_retries must be non-negative"),
        (ExecutionSpec, "max_retries", 51, "max_retries must not exceed 50"),
    ],
)
def test_val_2_val_3_values_out_of_range_are_refused(
    model: type[ResourceSpec] | type[ExecutionSpec], field: str, value: float, message: str
) -> None:
    given: dict[str, Any] = RESOURCES if model is ResourceSpec else LIMITS
    with pytest.raises(ValidationError) as caught:
        model.model_validate({**given, field: value})
    [problem] = caught.value.errors()
    assert problem["msg"] == f"Value error, {message}"
    assert problem["loc"] == (field,)


def test_val_4_two_functions_of_one_name_are_refused() -> None:
    function = {"function_name": "f", "resource_spec": RESOURCES, "execution_spec": LIMITS}
    definition = {"default_docker_image": "i", "functions": [function, function]}
    with pytest.raises(ValidationError, match="function_name values must be distinct"):
        VersionDefinition.model_validate(definition)


@pytest.mark.parametrize(
    ("result", "accepted"),
    [
        ({"outcome": "SUCCEEDED", "final_output": "x"}, True),
        ({"outcome": "SUCCEEDED"}, True),
        ({"outcome": "SUCCEEDED", "error_message": "e"}, False),
        ({"outcome": "FAILED", "final_output": "x", "error_message": "e"}, True),
        ({"outcome": "FAILED", "error_message": ""}, True),
        ({"outcome": "FAILED", "final_output": "x"}, False),
        ({"outcome": "ABORTED"}, True),
        ({"outcome": "ABORTED", "error_message": "e"}, False),
    ],
)
def test_val_5_an_error_message_belongs_to_failed(
    result: dict[str, str], *, accepted: bool
) -> None:
    if accepted:
        ExecutionFinalResult.model_validate(result)
    else:
        with pytest.raises(ValidationError, match="error_message must"):
            ExecutionFinalResult.model_validate(result)


def test_val_6_a_million_characters_are_refused() -> None:
    million = "x" * 1_000_000
    with pytest.raises(ValidationError, match="input cannot exceed 250000 characters"):
        InvocationDefinition(input=million)
    with pytest.raises(ValidationError, match="latest_output cannot exceed"):
        ExecutionTemporaryResult(latest_output=million)
    for field in ("final_output", "error_message"):
        with pytest.raises(ValidationError, match=f"{field} cannot exceed"):
            ExecutionFinalResult.model_validate({"outcome": "FAILED", field: million})


def test_off_1_an_offset_survives_writing_and_reading() -> None:
    offset = InvocationOffset(1_700_000_000, "inv-1")
    assert str(offset) == "1700000000,inv-1"
    assert InvocationOffset.parse(str(offset)) == offset
    assert InvocationOffset.parse("-1,a,b") == InvocationOffset(-1, "a,b")


@pytest.mark.parametrize("text", ["", "5", "inv-1", ",inv-1", "x,inv-1", "1_0,a", " 1,a", "1.0,a"])
def test_off_1_anything_else_is_invalid(text: str) -> None:
    with pytest.raises(OffsetIsInvalidError):
        InvocationOffset.parse(text)


def test_log_offsets_are_line_numbers() -> None:
    assert parse_log_offset("0") == 0
    assert parse_log_offset("12") == 12
    for text in ("", "-1", "x", "+1", "\u0661"):
        with pytest.raises(OffsetIsInvalidError):
            parse_log_offset(text)


def test_page_sizes_are_capped() -> None:
    assert [page_size(n, maximum=50) for n in (None, 0, 49, 50, 51)] == [50, 0, 49, 50, 50]


def test_ref_1_latest_is_the_newest_and_anything_else_an_id() -> None:
    assert parse_version_reference("latest") is None
    assert parse_version_reference("LaTeSt") is None
    assert parse_version_reference("ver-1") == "ver-1"
    assert parse_version_reference("latest ") == "latest "


def test_rnd_1_ids_begin_with_their_prefix() -> None:
    made = (
        (ids.new_project_id(), "prj-"),
        (ids.new_version_id(), "ver-"),
        (ids.new_function_id(), "fun-"),
        (ids.new_invocation_id(), "inv-"),
    )
    for identifier, prefix in made:
        assert identifier.startswith(prefix)
        assert len(identifier) == len(prefix) + 32

"""The OpenAPI document: what client generators read."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from openapi_spec_validator import OpenAPIV30SpecValidator

import core.errors
from api.app import create_app_without_context
from api.cli import openapi
from tests.support.api import Api

SNAPSHOT = Path(__file__).with_name("openapi.json")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app_without_context().openapi()


def _operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]


def test_it_is_valid_openapi_3_0_3(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.0.3"
    assert list(OpenAPIV30SpecValidator(document).iter_errors()) == []
    # JSON Schema of OpenAPI 3.1, which the validator would let pass in odd places.
    text = json.dumps(document)
    assert '"type": "null"' not in text
    assert '"const"' not in text


def test_it_is_the_snapshot(document: dict[str, Any]) -> None:
    """A difference may break clients. If it is meant: control-plane openapi --output <snapshot>."""
    assert document == json.loads(SNAPSHOT.read_text())


async def test_it_is_served_without_a_key(api: Api, document: dict[str, Any]) -> None:
    assert await api.ok("GET", "/openapi.json", headers={}) == document
    for path in ("/docs", "/redoc"):
        assert (await api.get(path, headers={})).status_code == 200


def test_operation_ids_are_the_method_names_of_clients(document: dict[str, Any]) -> None:
    assert [operation["operationId"] for _, _, operation in _operations(document)] == [
        "check_health",
        "get_container_repository_credentials",
        "create_temporal_ui_link",
        "create_project",
        "delete_project",
        "get_project",
        "list_projects",
        "announce_bundle",
        "upload_pieces",
        "create_version",
        "list_versions",
        "get_version",
        "create_invocation",
        "list_invocations",
        "cancel_invocation",
        "get_invocation",
        "get_invocation_by_id",
        "list_children",
        "start_execution",
        "update_execution",
        "report_progress",
        "finish_execution",
        "get_execution",
        "get_execution_logs",
    ]


def test_every_operation_is_described_and_declares_its_key(document: dict[str, Any]) -> None:
    for path, _, operation in _operations(document):
        assert operation["description"]
        assert operation.get("security") == (None if path == "/" else [{"bearer": []}])
        for parameter in operation.get("parameters", []):
            assert parameter["description"], parameter["name"]


def test_every_error_text_is_declared(document: dict[str, Any]) -> None:
    declared = {
        (int(status), example["value"]["detail"])
        for _, _, operation in _operations(document)
        for status, response in operation["responses"].items()
        for example in response.get("content", {})
        .get("application/json", {})
        .get("examples", {})
        .values()
    }
    errors = {
        (error.status, error.detail)
        for error in vars(core.errors).values()
        if isinstance(error, type)
        and issubclass(error, core.errors.ControlPlaneError)
        and error is not core.errors.ControlPlaneError
    }
    assert declared == errors


def test_limits_are_visible(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    cpus = schemas["ResourceSpec"]["properties"]["virtual_cpus"]
    assert (cpus["minimum"], cpus["exclusiveMinimum"], cpus["maximum"]) == (0, True, 16)
    retries = schemas["ExecutionSpec"]["properties"]["max_retries"]
    assert (retries["minimum"], retries["maximum"]) == (0, 50)
    final = schemas["ExecutionFinalResult"]["properties"]
    assert (final["final_output"]["maxLength"], final["final_output"]["nullable"]) == (
        250_000,
        True,
    )
    assert final["error_message"]["maxLength"] == 16_384


def test_the_command_writes_it_without_any_settings(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    output = tmp_path / "control-plane.json"
    result = CliRunner(env={"CONTROL_PLANE_API_KEY": None, "POSTGRES_DB": None}).invoke(
        openapi, ["--output", str(output)]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(output.read_text()) == document
    assert json.loads(CliRunner().invoke(openapi).stdout) == document

"""What the SDK sends and reads is what the OpenAPI document says: requests, and models of answers.

The document is held against the server in tests/api.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from datetime import datetime
from inspect import getmembers, isfunction
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import pytest
from control_plane import models as sdk
from control_plane._http import requests
from control_plane._http.requests import Request

from api.requests.waiting import MAX_WAIT_SECONDS
from tests.support.repository import ROOT

OPENAPI = json.loads((ROOT / "tests/api/openapi.json").read_text())
SCHEMAS: dict[str, Any] = OPENAPI["components"]["schemas"]

_MODELS: dict[type[sdk.Model], tuple[str, ...]] = {
    sdk.Project: ("ProjectInfo",),
    sdk.ResourceSpec: ("ResourceSpec",),
    sdk.ExecutionSpec: ("ExecutionSpec",),
    sdk.RetrySpec: ("RetrySpec",),
    sdk.Preparation: ("Preparation",),
    sdk.FunctionInfo: ("FunctionInfoForVersion",),
    sdk.VersionSummary: ("VersionSummary",),
    sdk.Version: ("VersionInfo",),
    sdk.BundleInfo: ("BundleInfo",),
    sdk.Parent: ("ParentInvocationInfo", "ParentInvocationReference"),
    sdk.Worker: ("WorkerInfo",),
    sdk.Execution: ("ExecutionSummary",),
    sdk.InvocationSummary: ("InvocationSummary",),
    sdk.ChildInvocation: ("ChildInvocationSummary",),
    sdk.InvocationInfo: ("InvocationInfo",),
    sdk.InvocationPage: ("InvocationsListForFunction",),
    sdk.ChildPage: ("ChildInvocationsList",),
    sdk.LogPage: ("ExecutionLogs",),
}
"""The schemas that each model reads."""
_FROM_THE_LIST_ALONE = {(sdk.InvocationInfo, "attempts")}
"""Fields that a model has from its base, and that its own schema does not have."""


def _subclasses(kind: type[sdk.Model]) -> Iterator[type[sdk.Model]]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)


def test_every_model_is_compared() -> None:
    assert set(_subclasses(sdk.Model)) == set(_MODELS)


@pytest.mark.parametrize(
    ("model", "schema"),
    [(model, schema) for model, schemas in _MODELS.items() for schema in schemas],
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)
def test_a_model_reads_fields_that_the_server_sends(model: type[sdk.Model], schema: str) -> None:
    hints = get_type_hints(model)
    for field in fields(model):
        if field.name == "raw" or (model, field.name) in _FROM_THE_LIST_ALONE:
            continue
        place = f"{model.__name__}.{field.name}"
        sent = SCHEMAS[schema]["properties"].get(field.name)
        assert sent is not None, f"{place} is not in {schema}"
        hint, may_be_none = _without_none(hints[field.name])
        assert _fits(hint, sent), f"{place} is {hint}, and the server sends {sent}"
        may_be_absent = field.name not in SCHEMAS[schema].get("required", ())
        if sent.get("nullable"):
            assert may_be_none, f"{place} may be null"
        if field.default is MISSING:
            optional = (may_be_none, may_be_absent, sent.get("nullable", False))
            assert not any(optional), f"{place} is required, and the server may not send it"


def _without_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) is not UnionType:
        return hint, False
    (rest,) = (part for part in get_args(hint) if part is not type(None))
    return rest, True


def _fits(hint: Any, sent: dict[str, Any]) -> bool:
    sent = next(iter(sent.get("allOf", [sent])))
    name = sent.get("$ref", "").rpartition("/")[2]
    if isinstance(hint, type) and issubclass(hint, sdk.Model):
        return name in _MODELS[hint]
    kind = SCHEMAS[name]["type"] if name else sent["type"]
    if get_origin(hint) is tuple:
        return kind == "array" and _fits(get_args(hint)[0], sent["items"])
    if get_origin(hint) is Mapping:
        return bool(kind == "object")
    # A whole number is a float, too; times are whole seconds.
    kinds = {str: {"string"}, int: {"integer"}, float: {"number"}, datetime: {"integer"}}
    return kind in kinds[hint]


def _operation(method: str, path: str) -> dict[str, Any]:
    """Find what the document says of a request."""
    path = urlsplit(path).path
    for template, operations in OPENAPI["paths"].items():
        # A braced name stands for one part of the path.
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path) and method.lower() in operations:
            operation: dict[str, Any] = operations[method.lower()]
            return operation
    raise AssertionError(f"the server has no {method} {path}")


_PATH = sdk.InvocationPath(
    project_name="p", version_id="ver-1", function_name="f", invocation_id="inv-1"
)
_DIGEST = "0" * 64
_REQUESTS: dict[Callable[..., Request[Any]], tuple[Request[Any], str]] = {
    requests.health: (requests.health(), "HealthStatus"),
    requests.list_projects: (requests.list_projects(), "ProjectsList"),
    requests.get_project: (requests.get_project("p"), "ProjectInfo"),
    requests.create_project: (requests.create_project("p"), "ProjectInfo"),
    requests.delete_project: (requests.delete_project("p"), "ProjectInfo"),
    requests.list_versions: (requests.list_versions("p"), "VersionsListForProject"),
    requests.get_version: (requests.get_version("p"), "VersionInfo"),
    requests.create_version: (
        requests.create_version("p", {"default_docker_image": "i", "functions": []}),
        "VersionInfo",
    ),
    requests.announce_bundle: (requests.announce_bundle("p", {"files": []}), "BundleInfo"),
    requests.upload_pieces: (requests.upload_pieces("p", _DIGEST, []), "UploadedPieces"),
    requests.create_invocation: (
        requests.create_invocation("p", "f", input_text="[]", parent=("f", "inv-0")),
        "InvocationInfo",
    ),
    requests.get_invocation: (requests.get_invocation(_PATH, wait=1), "InvocationInfo"),
    requests.find_invocation: (requests.find_invocation("inv-1", wait=1), "InvocationInfo"),
    requests.open_temporal_ui: (requests.open_temporal_ui("inv-1"), "TemporalUiLink"),
    requests.list_children: (
        requests.list_children("inv-1", offset="o", max_results=1),
        "ChildInvocationsList",
    ),
    requests.cancel_invocation: (requests.cancel_invocation(_PATH), "InvocationInfo"),
    requests.list_invocations: (
        requests.list_invocations(
            "p", "f", status="RUNNING", parent=("f", "inv-0"), offset="o", max_results=1
        ),
        "InvocationsListForFunction",
    ),
    requests.get_logs: (
        requests.get_logs(_PATH, "exe-1", offset="0", max_lines=1, since=1.0, tail=1),
        "ExecutionLogs",
    ),
}
"""Each with all its parameters, and the schema of its answer."""


def test_every_request_is_compared() -> None:
    made = {
        each
        for name, each in getmembers(requests, isfunction)
        if each.__module__ == requests.__name__ and not name.startswith("_")
    }
    assert made == set(_REQUESTS)


@pytest.mark.parametrize("make", _REQUESTS, ids=lambda make: make.__name__)
def test_a_request_is_one_that_the_server_knows(make: Callable[..., Request[Any]]) -> None:
    request, answer = _REQUESTS[make]
    operation = _operation(request.method, request.path)
    content = operation["responses"]["200"]["content"]["application/json"]
    assert content["schema"]["$ref"].endswith(f"/{answer}")
    known = (
        {(each["in"], each["name"]) for each in operation["parameters"]}
        if ("parameters" in operation)
        else set()
    )
    query = urlsplit(request.path).query
    sent = {("query", part.partition("=")[0]) for part in query.split("&") if part}
    sent |= {("header", name) for name in request.headers if name != "Content-Type"}
    assert sent <= known
    body = operation.get("requestBody")
    assert (request.content is None) == (body is None)
    if body is not None:
        (kind,) = body["content"]
        assert request.headers["Content-Type"] == kind
        if kind == "application/json":
            assert request.content is not None
            schema = SCHEMAS[body["content"][kind]["schema"]["$ref"].rpartition("/")[2]]
            assert set(json.loads(request.content)) <= set(schema["properties"])


def test_a_request_may_wait_as_long_as_the_docs_say() -> None:
    (wait,) = (
        parameter
        for parameter in _operation("GET", "/invocations/inv-1")["parameters"]
        if parameter["name"] == "wait"
    )
    assert wait["schema"]["maximum"] == MAX_WAIT_SECONDS
    assert "60 seconds" in (requests.get_invocation.__doc__ or "")


def test_the_runner_reads_and_reports_fields_that_the_server_knows() -> None:
    """What it takes from the answer to `start`, and the bodies of its reports."""
    start = SCHEMAS["ExecutionInfo"]["properties"]
    assert start["input"]["type"] == "string"
    assert start["invocation_creation_time"]["type"] == "integer"
    assert start["attempt"]["type"] == "integer"
    assert start["execution_spec"]["$ref"].endswith("/ExecutionSpec")
    assert set(SCHEMAS["ExecutionTemporaryResult"]["properties"]) == {"latest_output"}
    assert set(SCHEMAS["ExecutionProgress"]["properties"]) == {"progress"}
    assert set(SCHEMAS["ExecutionFinalResult"]["properties"]) == {
        "outcome",
        "final_output",
        "error_message",
    }

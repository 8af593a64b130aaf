"""422: rules VAL over HTTP, its shape, and hostile bodies."""

import json
from typing import Any

import pytest

from api.requests.errors import MAX_PROBLEMS
from tests.support.api import USER, Api
from tests.support.harness import STANDARD, Json, function_spec

MIB = 1024 * 1024


@pytest.fixture
async def versions(api: Api) -> str:
    await api.put("/projects/shop")
    return "/projects/shop/versions"


def _version(**resource_spec: Any) -> Json:
    spec = function_spec("f")
    spec["resource_spec"] |= resource_spec
    return {"default_docker_image": "i", "functions": [spec]}


async def _problems(api: Api, path: str, *, method: str = "POST", **options: Any) -> list[Json]:
    answer = await api.request(method, path, **options)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["detail"]
    problems: list[Json] = body["detail"]
    for problem in problems:
        assert {"type", "loc", "msg"} <= set(problem) <= {"type", "loc", "msg", "input", "ctx"}
        assert problem["loc"][0] in {"body", "query", "path"}
    return problems


async def test_val_a_problem_names_its_place_and_limit(api: Api, versions: str) -> None:
    [problem] = await _problems(api, versions, json=_version(virtual_cpus=17))
    assert problem == {
        "type": "value_error",
        "loc": ["body", "functions", 0, "resource_spec", "virtual_cpus"],
        "msg": "Value error, virtual_cpus must not exceed 16",
        "input": 17,
        "ctx": {"error": "virtual_cpus must not exceed 16"},
    }


async def test_val_missing_fields_are_named(api: Api, versions: str) -> None:
    problems = await _problems(api, versions, json={})
    assert [(p["type"], p["loc"]) for p in problems] == [
        ("missing", ["body", "default_docker_image"]),
        ("missing", ["body", "functions"]),
    ]
    [whole] = await _problems(api, versions)
    assert (whole["type"], whole["loc"]) == ("missing", ["body"])


async def test_val_6_exactly_the_limits_are_accepted_and_one_more_is_refused(
    api: Api, function: str
) -> None:
    text = "\U0001f600" * 250_000
    invocation = await api.invoke(function, input=text)
    assert (await api.ok("GET", invocation))["input"] == text
    body = {"input": text + "x"}
    [problem] = await _problems(api, f"{function}/invocations", json=body)
    assert problem["loc"] == ["body", "input"]
    assert problem["msg"] == "Value error, input cannot exceed 250000 characters"
    # The body is not thrown back.
    assert "input" not in problem

    execution = await api.add_execution(invocation)
    await api.ok("PUT", f"{execution}/start")
    for name, call, extra, limit in (
        ("latest_output", "update", {}, 250_000),
        ("final_output", "finish", {"outcome": "ABORTED"}, 250_000),
        ("error_message", "finish", {"outcome": "FAILED"}, 16_384),
    ):
        body = {name: "x" * (limit + 1), **extra}
        [problem] = await _problems(api, f"{execution}/{call}", method="PUT", json=body)
        assert problem["loc"] == ["body", name]
        assert problem["msg"] == f"Value error, {name} cannot exceed {limit} characters"
    await api.ok("PUT", f"{execution}/update", json={"latest_output": "x" * 250_000})
    most = {"outcome": "FAILED", "final_output": text, "error_message": "x" * 16_384}
    finished = await api.ok("PUT", f"{execution}/finish", json=most)
    assert (finished["output"], len(finished["error_message"])) == (text, 16_384)


async def test_val_5_outcome_and_error_message_must_fit(api: Api, function: str) -> None:
    execution = await api.add_execution(await api.invoke(function))
    for body in (
        {"outcome": "FAILED"},
        {"outcome": "SUCCEEDED", "error_message": "e"},
        {"outcome": "ABORTED", "error_message": ""},
        {"outcome": "DONE"},
        {},
    ):
        await _problems(api, f"{execution}/finish", method="PUT", json=body)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e400"])
async def test_numbers_must_be_finite(api: Api, versions: str, literal: str) -> None:
    body = json.dumps(_version(virtual_cpus="?")).replace('"?"', literal)
    [problem] = await _problems(api, versions, content=body)
    assert problem["loc"][-1] == "virtual_cpus"
    assert problem["input"] in {"nan", "inf", "-inf"}


async def test_numbers_may_come_as_texts_and_truths(api: Api, versions: str) -> None:
    version = await api.ok(
        "POST", versions, json=_version(virtual_cpus="1", memory_gbs=True, max_concurrency="3")
    )
    assert version["functions"][0]["resource_spec"] == {
        "virtual_cpus": 1.0,
        "memory_gbs": 1.0,
        "max_concurrency": 3,
    }
    [problem] = await _problems(api, versions, json=_version(max_concurrency=1.5))
    assert problem["loc"][-1] == "max_concurrency"


@pytest.mark.parametrize("bad", ["\\u0000", "\\ud800", "\\udc00x"])
async def test_text_that_cannot_be_stored_is_refused_everywhere(
    api: Api, function: str, versions: str, bad: str
) -> None:
    def body(content: Json) -> bytes:
        return json.dumps(content).replace("?", bad).encode()

    execution = await api.add_execution(await api.invoke(function))
    named = function_spec("?")
    imaged = function_spec("f", image="?")
    parent = {"function_name": "?", "invocation_id": "x"}
    for method, path, content, field in (
        ("POST", versions, {"default_docker_image": "?", "functions": []}, "default_docker_image"),
        ("POST", versions, {"default_docker_image": "", "functions": [named]}, "function_name"),
        (
            "POST",
            versions,
            {"default_docker_image": "", "functions": [imaged]},
            "docker_image_override",
        ),
        ("POST", f"{function}/invocations", {"input": "?"}, "input"),
        (
            "POST",
            f"{function}/invocations",
            {"input": "", "parent_invocation": parent},
            "function_name",
        ),
        ("PUT", f"{execution}/update", {"latest_output": "?"}, "latest_output"),
        ("PUT", f"{execution}/progress", {"progress": {"a": [{"b": "?"}]}}, "progress"),
        ("PUT", f"{execution}/progress", {"progress": {"?": 1}}, "progress"),
        (
            "PUT",
            f"{execution}/finish",
            {"outcome": "ABORTED", "final_output": "?"},
            "final_output",
        ),
        (
            "PUT",
            f"{execution}/finish",
            {"outcome": "FAILED", "error_message": "?"},
            "error_message",
        ),
    ):
        [problem] = await _problems(api, path, method=method, content=body(content))
        assert problem["loc"][-1] == field
        assert f"{field} must not contain" in problem["msg"]


async def test_progress_has_limits(api: Api, function: str) -> None:
    execution = await api.add_execution(await api.invoke(function))
    await api.ok("PUT", f"{execution}/start")
    longest = {"message": "é" * (16_384 - len('{"message":""}'))}
    nested: Json = {"": 1}
    for _ in range(31):
        nested = {"": nested}
    for accepted in (longest, nested, {}):
        seen = await api.ok("PUT", f"{execution}/progress", json={"progress": accepted})
        assert seen["progress"] == accepted
        assert await api.ok("GET", execution) == seen
    for refused, text in (
        ({"message": longest["message"] + "x"}, "progress cannot exceed 16384 characters"),
        ({"": nested}, "progress cannot exceed 32 levels of nesting"),
        ({"": [[nested]]}, "progress cannot exceed 32 levels of nesting"),
        ([1], "Input should be a valid dictionary"),
        (None, "Input should be a valid dictionary"),
    ):
        [problem] = await _problems(
            api, f"{execution}/progress", method="PUT", json={"progress": refused}
        )
        assert text in problem["msg"]
    for literal in (b"NaN", b"1e999"):
        body = b'{"progress": {"x": ' + literal + b"}}"
        await _problems(api, f"{execution}/progress", method="PUT", content=body)


async def test_nul_in_paths_and_queries_is_422(api: Api, function: str) -> None:
    execution = "invocations/inv-1/executions/%00"
    for method, path, place in (
        ("PUT", "/projects/a%00", ["path", "project_name"]),
        ("GET", "/projects/a%00", ["path", "project_name"]),
        ("GET", "/projects/shop/versions/%00", ["path", "version_id"]),
        ("GET", "/projects/shop/versions/latest/functions/%00/invocations", None),
        ("GET", f"{function}/invocations/%00", ["path", "invocation_id"]),
        ("GET", f"{function}/{execution}", ["path", "execution_id"]),
        ("GET", f"{function}/invocations?initial_offset=1,%00", ["query", "initial_offset"]),
        (
            "GET",
            f"{function}/invocations?parent_function_name=%00&parent_invocation_id=x",
            ["query", "parent_function_name"],
        ),
    ):
        problems = await _problems(api, path, method=method)
        assert problems[0]["loc"] == (place or ["path", "function_name"])


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nonsense",
        b"\xff\xfe\xfd",
        b'{"input": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"input": ' + b"9" * 5000 + b"}",
        b'{"input": ' + b"9" * 400 + b"}",
        b"[" * 900 + b"]" * 900,
        b'{"input": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"input": {"\\ud800": NaN}}',
        b'{"input": "x", "input": 3}',
        b'{"input": ' + b"1" * 100_000 + b"}",
        b'{"input": 1e999999999}',
        b"null",
        b"3",
        b'"text"',
        b"[]",
        b" ",
    ],
)
async def test_hostile_bodies_are_422(api: Api, function: str, body: bytes) -> None:
    await _problems(api, f"{function}/invocations", content=body)


async def test_deep_and_odd_texts_in_queries_and_headers_are_422(api: Api, function: str) -> None:
    path = f"{function}/invocations"
    for query in ("max_results=NaN", "max_results=" + "9" * 5000, "max_results=" + "[" * 20_000):
        problems = await _problems(api, f"{path}?{query}", method="GET")
        assert problems[0]["loc"] == ["query", "max_results"]
    headers = {**USER, "Idempotency-Key": "[" * 20_000}
    answer = await api.post(path, json={"input": "x"}, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["header", "Idempotency-Key"]
    assert (await api.get(f"{path}?initial_offset={'[' * 20_000}")).status_code == 400
    # As JSON has it: of a key that comes twice, the last one counts.
    twice = await api.ok("POST", path, content=b'{"input": "first", "input": "last"}')
    assert twice["input"] == "last"


async def test_a_million_problems_are_not_described(api: Api, versions: str) -> None:
    path = versions
    many = {"default_docker_image": "i", "functions": [0] * 1_000_000}
    [problem] = await _problems(api, path, json=many)
    assert problem["msg"] == "Value error, functions must not exceed 1000"
    assert "input" not in problem
    fewer = await _problems(api, path, json={**many, "functions": [0] * 1000})
    assert len(fewer) == MAX_PROBLEMS


async def test_a_large_refused_value_is_not_repeated(api: Api, versions: str) -> None:
    functions = [STANDARD, "x" * (2 * MIB)]
    answer = await api.post(versions, json={"default_docker_image": "i", "functions": functions})
    assert answer.status_code == 422
    assert len(answer.content) < 2000
    small = await _problems(api, versions, json={"default_docker_image": 3, "functions": []})
    assert small[0]["input"] == 3


async def test_names_and_images_are_shorter_than_1024(api: Api, versions: str) -> None:
    fits, too_long = "x" * 1023, "x" * 1024
    good = {"default_docker_image": fits, "functions": [function_spec(fits, image=fits)]}
    await api.ok("POST", versions, json=good)
    bad = {
        "default_docker_image": too_long,
        "functions": [function_spec(too_long, image=too_long)],
    }
    problems = await _problems(api, versions, json=bad)
    assert [problem["msg"] for problem in problems] == [
        "Value error, default_docker_image cannot exceed 1024 characters",
        "Value error, function_name cannot exceed 1024 characters",
        "Value error, docker_image_override cannot exceed 1024 characters",
    ]


@pytest.mark.parametrize(
    ("retry_spec", "place", "message"),
    [
        (
            {"initial_interval_seconds": 0},
            "initial_interval_seconds",
            "initial_interval_seconds must be positive",
        ),
        (
            {"initial_interval_seconds": 86_401},
            "initial_interval_seconds",
            "initial_interval_seconds must not exceed 86400",
        ),
        (
            {"backoff_coefficient": 0.5},
            "backoff_coefficient",
            "backoff_coefficient must not be less than 1",
        ),
        (
            {"initial_interval_seconds": 9, "maximum_interval_seconds": 8},
            "retry_spec",
            "maximum_interval_seconds must not be less than initial_interval_seconds",
        ),
    ],
)
async def test_pauses_between_attempts_have_limits(
    api: Api, versions: str, retry_spec: Json, place: str, message: str
) -> None:
    spec = {**function_spec("f"), "retry_spec": retry_spec}
    [problem] = await _problems(
        api, versions, json={"default_docker_image": "i", "functions": [spec]}
    )
    assert problem["loc"][-1] == place
    assert problem["msg"] == f"Value error, {message}"


@pytest.mark.parametrize("pool", ["", "Upper", "-first", "a b", "p" * 64, "ä"])
async def test_a_pool_must_have_a_name_that_a_queue_can_have(
    api: Api, versions: str, pool: str
) -> None:
    definition = {"default_docker_image": "i", "functions": [{**STANDARD, "pool": pool}]}
    (problem,) = await _problems(api, versions, json=definition)
    assert problem["loc"] == ["body", "functions", 0, "pool"]
    assert problem["msg"].startswith("Value error, pool must be 1 to 63 lower-case letters")
    assert (await api.ok("GET", versions))["versions"] == []

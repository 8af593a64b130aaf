"""Versions and functions: rules VER, FUN and REF over HTTP."""

import pytest

from core.ids import FunctionId
from registry.queries.paths import FunctionPath, get_function
from registry.transitions.preparation import record_preparation_failure, record_prepared
from tests.support.api import Api, assert_error, id_of
from tests.support.harness import LIMITED, STANDARD, function_spec

NO_VERSION = "A version with this ID does not exist for this project"
NO_PROJECT = "A project with this name does not exist"


async def test_ver_1_a_project_without_versions_has_no_latest(api: Api) -> None:
    await api.ok("PUT", "/projects/shop")
    assert_error(await api.get("/projects/shop/versions/latest"), 404, NO_VERSION)
    assert_error(await api.get(f"/projects/shop/versions/ver-{'0' * 32}"), 404, NO_VERSION)
    listed = await api.ok("GET", "/projects/shop/versions")
    assert listed == {"project_name": "shop", "versions": []}


async def test_ver_2_a_version_belongs_to_one_project(api: Api) -> None:
    path = await api.deploy(STANDARD)
    await api.ok("PUT", "/projects/other")
    version = await api.ok("GET", path)
    assert await api.ok("GET", "/projects/shop/versions/latest") == version
    listed = await api.ok("GET", "/projects/shop/versions")
    assert listed["versions"] == [
        {"version_id": version["version_id"], "creation_time": version["creation_time"]}
    ]
    assert_error(await api.get(f"/projects/other/versions/{id_of(path)}"), 404, NO_VERSION)
    assert (await api.ok("GET", "/projects/other/versions"))["versions"] == []


@pytest.mark.parametrize("latest", ["latest", "LATEST", "Latest"])
async def test_ver_3_ref_1_latest_in_any_letter_case_is_the_newest(api: Api, latest: str) -> None:
    first = await api.deploy(STANDARD)
    second = await api.deploy(LIMITED)
    listed = await api.ok("GET", "/projects/shop/versions")
    assert [v["version_id"] for v in listed["versions"]] == [id_of(second), id_of(first)]
    seen = await api.ok("GET", f"/projects/shop/versions/{latest}")
    assert seen["version_id"] == id_of(second)
    # In every place of a path, and resolved in the answer.
    page = await api.ok("GET", f"/projects/shop/versions/{latest}/functions/limited/invocations")
    assert page["version_id"] == id_of(second)


async def test_ver_4_a_missing_project_is_404_everywhere(api: Api) -> None:
    definition = {"default_docker_image": "i", "functions": []}
    assert_error(await api.post("/projects/none/versions", json=definition), 404, NO_PROJECT)
    for path in ("versions", "versions/latest", f"versions/ver-{'0' * 32}"):
        assert_error(await api.get(f"/projects/none/{path}"), 404, NO_PROJECT)


async def test_fun_1_a_new_function_has_all_fields_as_given_and_is_pending(api: Api) -> None:
    spec = function_spec("f", concurrency=3, retries=2, timeout=7, image="own:2")
    path = await api.deploy(spec)
    assert (await api.ok("GET", path))["functions"] == [
        {
            "function_name": "f",
            "docker_image": "own:2",
            "resource_spec": spec["resource_spec"],
            "execution_spec": spec["execution_spec"],
            "retry_spec": None,
            "pool": "dev",
            "function_status": "PENDING",
            "prepared_function_details": None,
            "preparation": {"status": "PENDING", "error": None},
        }
    ]
    other = await api.deploy()
    assert (await api.ok("GET", other))["functions"] == []


async def test_the_pauses_between_attempts_are_shown_as_registered(api: Api) -> None:
    given = {"initial_interval_seconds": 5, "backoff_coefficient": 2}
    path = await api.deploy({**function_spec("f"), "retry_spec": given})
    [function] = (await api.ok("GET", path))["functions"]
    assert function["retry_spec"] == {**given, "maximum_interval_seconds": None}


async def test_fun_2_functions_come_in_the_order_of_registration(api: Api) -> None:
    path = await api.deploy(function_spec("b"), function_spec("a"), function_spec("c"))
    functions = (await api.ok("GET", path))["functions"]
    assert [f["function_name"] for f in functions] == ["b", "a", "c"]
    # Without an image of its own, a function has the version's.
    assert {f["docker_image"] for f in functions} == {"image:1"}


async def test_fun_3_a_name_occurs_once_in_a_version(api: Api) -> None:
    await api.ok("PUT", "/projects/shop")
    twice = {"default_docker_image": "i", "functions": [STANDARD, STANDARD]}
    answer = await api.post("/projects/shop/versions", json=twice)
    assert answer.status_code == 422
    [problem] = answer.json()["detail"]
    assert problem["loc"] == ["body", "functions"]
    assert problem["msg"] == "Value error, function_name values must be distinct"
    assert (await api.ok("GET", "/projects/shop/versions"))["versions"] == []


async def test_fun_4_a_prepared_function_is_ready_and_the_others_are_not(api: Api) -> None:
    path = await api.deploy(STANDARD, LIMITED, function_spec("broken"))
    async with api.registry.transaction() as session:
        ready = await _function_id(api, "standard")
        details = {"type": "TEST", "identifier": "mocked"}
        await record_prepared(session, ready, details=details)
        broken = await _function_id(api, "broken")
        await record_preparation_failure(session, broken, error="no such image")
    by_name = {f["function_name"]: f for f in (await api.ok("GET", path))["functions"]}
    assert by_name["standard"]["function_status"] == "READY"
    assert by_name["standard"]["prepared_function_details"] == details
    assert by_name["standard"]["preparation"] == {"status": "READY", "error": None}
    assert by_name["limited"]["function_status"] == "PENDING"
    assert by_name["limited"]["prepared_function_details"] is None
    # Existing clients know no third status.
    assert by_name["broken"]["function_status"] == "PENDING"
    assert by_name["broken"]["preparation"] == {"status": "FAILED", "error": "no such image"}


async def test_a_version_of_1000_functions_is_accepted_and_of_1001_refused(api: Api) -> None:
    specs = [function_spec(f"f{number}") for number in range(1001)]
    path = await api.deploy(*specs[:1000])
    assert len((await api.ok("GET", path))["functions"]) == 1000
    body = {"default_docker_image": "i", "functions": specs}
    answer = await api.post("/projects/shop/versions", json=body)
    assert answer.status_code == 422
    [problem] = answer.json()["detail"]
    assert problem["msg"] == "Value error, functions must not exceed 1000"
    assert "input" not in problem


async def test_names_of_1023_wide_characters_fit_and_can_be_called(api: Api) -> None:
    # Far apart code points, so that nothing compresses.
    name = "".join(chr(0x10000 + (number * 7919) % 0x20000) for number in range(1023))
    path = await api.deploy(function_spec(name), function_spec(""))
    page = await api.ok("GET", f"{path}/functions/{name}/invocations")
    assert page["function_name"] == name


async def _function_id(api: Api, name: str) -> FunctionId:
    async with api.registry.transaction() as session:
        path = FunctionPath(project_name="shop", version_id=None, function_name=name)
        found = await get_function(session, path)
        return FunctionId(found.function.id)

"""404s name the outermost thing that is missing: rules EXE-7, INV-D8, FUN-5 over every method."""

import pytest

from tests.support.api import Api, assert_error, id_of
from tests.support.harness import Json

PROJECT = "A project with this name does not exist"
VERSION = "A version with this ID does not exist for this project"
FUNCTION = "A function with this name does not exist for this project version"
INVOCATION = "An invocation with this ID does not exist for this function"
EXECUTION = "An execution with this ID does not exist for this invocation"

DEFINITION: Json = {"default_docker_image": "i", "functions": []}
UPDATE: Json = {"latest_output": "x"}
FINISH: Json = {"outcome": "ABORTED"}

_Calls = list[tuple[str, str, Json | None]]

_OF_PROJECT: _Calls = [("GET", "", None), ("DELETE", "", None), ("POST", "/versions", DEFINITION)]
_OF_VERSIONS: _Calls = [("GET", "/versions", None)]
_OF_FUNCTION: _Calls = [("GET", "/invocations", None), ("POST", "/invocations", {"input": ""})]
_OF_INVOCATION: _Calls = [("GET", "", None), ("PUT", "/cancel", None)]
_OF_EXECUTION: _Calls = [
    ("GET", "", None),
    ("GET", "/logs", None),
    ("PUT", "/start", None),
    ("PUT", "/update", UPDATE),
    ("PUT", "/progress", {"progress": {}}),
    ("PUT", "/finish", FINISH),
]


@pytest.mark.parametrize(
    ("missing", "detail"),
    [
        (0, PROJECT),
        (1, VERSION),
        (2, FUNCTION),
        (3, INVOCATION),
        (4, EXECUTION),
    ],
)
async def test_exe_7_inv_d8_fun_5_the_outermost_missing_thing_is_named(
    api: Api, function: str, missing: int, detail: str
) -> None:
    invocation = await api.invoke(function)
    execution = await api.add_execution(invocation)
    version = function.split("/")[4]
    names = ["shop", version, "standard", id_of(invocation), id_of(execution)]
    # From the missing one on inwards, nothing exists.
    names[missing:] = ["none"] * (5 - missing)
    project, version, function_name, invocation, execution = names
    paths = {
        1: f"/projects/{project}",
        2: f"/projects/{project}/versions/{version}",
        3: f"/projects/{project}/versions/{version}/functions/{function_name}",
    }
    paths[4] = f"{paths[3]}/invocations/{invocation}"
    paths[5] = f"{paths[4]}/executions/{execution}"
    methods: dict[int, _Calls] = {
        1: _OF_PROJECT + _OF_VERSIONS,
        2: [("GET", "", None)],
        3: _OF_FUNCTION,
        4: _OF_INVOCATION,
        5: _OF_EXECUTION,
    }
    asked = 0
    for depth, calls in methods.items():
        if depth <= missing:
            continue
        for method, suffix, body in calls:
            answer = await api.request(method, f"{paths[depth]}{suffix}", json=body)
            assert_error(answer, 404, detail)
            asked += 1
    assert asked >= 5


async def test_a_body_is_judged_before_existence(api: Api) -> None:
    function = "/projects/none/versions/latest/functions/none"
    for method, path in (
        ("POST", "/projects/none/versions"),
        ("POST", f"{function}/invocations"),
        ("PUT", f"{function}/invocations/none/executions/none/update"),
        ("PUT", f"{function}/invocations/none/executions/none/progress"),
        ("PUT", f"{function}/invocations/none/executions/none/finish"),
    ):
        assert (await api.request(method, path, json={})).status_code == 422
    bad_query = await api.get(f"{function}/invocations", params={"max_results": "x"})
    assert bad_query.status_code == 422

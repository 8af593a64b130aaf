"""Invocations that are named by their id alone, and the children of one."""

import pytest

from core.states import InvocationStatus
from tests.support.api import Api, assert_error, id_of, parent_of
from tests.support.harness import STANDARD, Json

MISSING = (404, "An invocation with this ID does not exist")


async def _children(api: Api, invocation: str, **params: object) -> Json:
    path = f"/invocations/{id_of(invocation)}/children"
    return await api.ok("GET", path, params=params)


def _ids(page: Json) -> list[str]:
    return [entry["invocation_id"] for entry in page["invocations"]]


async def test_the_answer_is_that_of_the_whole_path(api: Api, function: str) -> None:
    parent = await api.invoke(function)
    child = await api.invoke(function, parent_invocation=parent_of("standard", parent))
    await api.add_execution(child, error_message="no")
    for path in (parent, child):
        by_id = await api.ok("GET", f"/invocations/{id_of(path)}")
        assert by_id == await api.ok("GET", path)
    assert by_id["parent_invocation"]["invocation_id"] == id_of(parent)
    assert [each["error_message"] for each in by_id["executions"]] == ["no"]


@pytest.mark.parametrize("suffix", ["", "/children", "?wait=5"])
async def test_an_id_that_nobody_has_is_404(api: Api, function: str, suffix: str) -> None:
    await api.invoke(function)
    assert_error(await api.get(f"/invocations/inv-{'0' * 32}{suffix}"), *MISSING)


@pytest.fixture
async def family(api: Api) -> tuple[str, list[str]]:
    """A parent, and the ids of its six children of two functions, newest first; and strangers."""
    version = await api.deploy(STANDARD, {**STANDARD, "function_name": "other"})
    functions = [f"{version}/functions/{name}" for name in ("standard", "other")]
    parent = await api.invoke(functions[0])
    made_by_parent = {"parent_invocation": parent_of("standard", parent)}
    children = [await api.invoke(functions[n % 2], **made_by_parent) for n in range(6)]
    await api.change_invocation(children[1], status=InvocationStatus.TERMINATED)
    await api.change_invocation(children[4], status=InvocationStatus.TERMINATED)
    made_by_child = {"parent_invocation": parent_of("standard", children[0])}
    await api.invoke(functions[1], **made_by_child)
    await api.invoke(functions[0])
    return parent, [id_of(each) for each in reversed(children)]


async def test_children_of_all_functions_are_listed_newest_first(
    api: Api, family: tuple[str, list[str]]
) -> None:
    parent, children = family
    page = await _children(api, parent)
    assert _ids(page) == children
    names = [entry["function_name"] for entry in page["invocations"]]
    assert names == ["other", "standard"] * 3
    entries = page.pop("invocations")
    seen = await api.ok("GET", parent)
    assert page == {
        "project_name": "shop",
        "version_id": seen["version_id"],
        "function_name": "standard",
        "invocation_id": id_of(parent),
        "next_offset": None,
    }
    of_function = await api.ok(
        "GET",
        f"{parent.rpartition('/functions/')[0]}/functions/other/invocations",
        params={"parent_function_name": "standard", "parent_invocation_id": id_of(parent)},
    )
    assert [each for each in entries if each.pop("function_name") == "other"] == of_function[
        "invocations"
    ]
    assert {each["parent_invocation"]["function_name"] for each in entries} == {"standard"}
    assert len(_ids(await _children(api, f"x/{children[-1]}"))) == 1
    assert _ids(await _children(api, f"x/{children[0]}")) == []


@pytest.mark.parametrize("size", [1, 2, 4])
async def test_pages_of_children_lead_to_the_oldest(
    api: Api, family: tuple[str, list[str]], size: int
) -> None:
    parent, children = family
    seen: list[str] = []
    offset: Json = {}
    while True:
        page = await _children(api, parent, max_results=size, **offset)
        assert len(_ids(page)) <= size
        seen += _ids(page)
        if page["next_offset"] is None:
            break
        offset = {"initial_offset": page["next_offset"]}
    assert seen == children
    first = await _children(api, parent, max_results=0)
    assert (_ids(first), first["next_offset"].partition(",")[2]) == ([], children[0])


async def test_bad_paging_values_are_refused(api: Api, family: tuple[str, list[str]]) -> None:
    parent, _ = family
    path = f"/invocations/{id_of(parent)}/children"
    answer = await api.get(path, params={"initial_offset": "x"})
    assert_error(answer, 400, "The next offset is in an invalid format")
    assert (await api.get(path, params={"max_results": -1})).status_code == 422

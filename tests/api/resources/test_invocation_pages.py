"""Pages of invocations: rules INV-D7 and OFF-1, and the edges of paging."""

import pytest

from core.states import WorkerStatus
from tests.support.api import Api, assert_error, id_of
from tests.support.harness import Json

BAD_OFFSET = "The next offset is in an invalid format"


async def _page(api: Api, function: str, **params: object) -> Json:
    return await api.ok("GET", f"{function}/invocations", params=params)


def _ids(page: Json) -> list[str]:
    return [entry["invocation_id"] for entry in page["invocations"]]


@pytest.fixture
async def three(api: Api, function: str) -> list[str]:
    """The ids of three invocations, newest first; they begin in the same second or next to it."""
    paths = [await api.invoke(function) for _ in range(3)]
    return [id_of(path) for path in reversed(paths)]


async def test_inv_d7_pages_of_one_lead_from_the_newest_to_the_oldest(
    api: Api, function: str, three: list[str]
) -> None:
    seen, offset = [], None
    for _ in three:
        params = {"max_results": 1} | ({} if offset is None else {"initial_offset": offset})
        page = await _page(api, function, **params)
        seen += _ids(page)
        offset = page["next_offset"]
    assert seen == three
    assert offset is None
    everything = await _page(api, function, max_results=10)
    assert _ids(everything) == three
    assert everything["next_offset"] is None


async def test_an_entry_of_a_list_is_exactly_so(api: Api, function: str, three: list[str]) -> None:
    entry = (await _page(api, function))["invocations"][0]
    whole = await api.ok("GET", f"{function}/invocations/{three[0]}")
    shared = (
        "invocation_id",
        "parent_invocation",
        "cancellation_requested",
        "cancellation_request_time",
        "invocation_status",
        "creation_time",
        "last_update_time",
        "phase",
        "phase_detail",
        "temporal_url",
    )
    assert entry == {name: whole[name] for name in shared} | {"attempts": 0}


async def test_an_entry_counts_the_executions(api: Api, function: str, three: list[str]) -> None:
    for attempt in (1, 2):
        await api.add_execution(
            f"{function}/invocations/{three[1]}",
            attempt=attempt,
            worker_status=WorkerStatus.TERMINATED,
        )
    entries = (await _page(api, function))["invocations"]
    assert [entry["attempts"] for entry in entries] == [0, 2, 0]


async def test_off_1_the_offset_names_the_first_entry_of_the_next_page(
    api: Api, function: str, three: list[str]
) -> None:
    page = await _page(api, function, max_results=2)
    third = await api.ok("GET", f"{function}/invocations/{three[2]}")
    assert page["next_offset"] == f"{third['creation_time']},{three[2]}"


async def test_a_last_page_that_is_exactly_full_has_no_offset(
    api: Api, function: str, three: list[str]
) -> None:
    page = await _page(api, function, max_results=3)
    assert _ids(page) == three
    assert page["next_offset"] is None


async def test_no_entries_are_given_for_max_results_0_but_the_offset_of_the_first(
    api: Api, function: str, three: list[str]
) -> None:
    page = await _page(api, function, max_results=0)
    assert page["invocations"] == []
    assert page["next_offset"].endswith(f",{three[0]}")
    following = await _page(api, function, initial_offset=page["next_offset"])
    assert _ids(following) == three


async def test_an_offset_need_not_exist(api: Api, function: str, three: list[str]) -> None:
    assert await _page(api, function, initial_offset="1,inv-1") == {
        **await _page(api, function, max_results=0),
        "next_offset": None,
    }
    for far_future in ("99999999999999,inv-1", f"{'9' * 30},inv-1"):
        assert _ids(await _page(api, function, initial_offset=far_future)) == three
    for long_ago in ("-5,inv-1", f"-{'9' * 29},inv-1", "0,inv-z", "1,\U0010ffff"):
        assert _ids(await _page(api, function, initial_offset=long_ago)) == []
    second = await api.ok("GET", f"{function}/invocations/{three[1]}")
    time = second["creation_time"]
    # An id that sorts behind all of its second includes the second, one before it does not.
    last_of_second = await _page(api, function, initial_offset=f"{time},inv-zzz")
    assert three[1] in _ids(last_of_second)
    before_second = await _page(api, function, initial_offset=f"{time},")
    assert three[1] not in _ids(before_second)


async def test_new_invocations_do_not_shift_later_pages(
    api: Api, function: str, three: list[str]
) -> None:
    page = await _page(api, function, max_results=1)
    await api.invoke(function)
    assert _ids(await _page(api, function, initial_offset=page["next_offset"])) == three[1:]


async def test_50_entries_are_the_default_and_the_most(api: Api, function: str) -> None:
    for _ in range(51):
        await api.invoke(function)
    for params in ({}, {"max_results": 50}, {"max_results": 51}, {"max_results": 10**30}):
        page = await _page(api, function, **params)
        assert len(page["invocations"]) == 50
        assert page["next_offset"] is not None


@pytest.mark.parametrize("offset", ["", "inv-1", "x,inv-1", "1.5,inv-1", ",inv-1", "9" * 5000])
async def test_off_1_anything_else_is_no_offset(api: Api, function: str, offset: str) -> None:
    answer = await api.get(f"{function}/invocations", params={"initial_offset": offset})
    assert_error(answer, 400, BAD_OFFSET)


@pytest.mark.parametrize("value", ["-1", "1.5", "x", ""])
async def test_page_sizes_must_be_non_negative_integers(
    api: Api, function: str, value: str
) -> None:
    answer = await api.get(f"{function}/invocations", params={"max_results": value})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "max_results"]


async def test_an_unknown_status_is_422(api: Api, function: str) -> None:
    answer = await api.get(f"{function}/invocations", params={"status": "DONE"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "status"]


async def test_the_parent_filter_needs_both_parts(api: Api, function: str) -> None:
    path = f"{function}/invocations"
    answer = await api.get(path, params={"parent_function_name": "standard"})
    assert_error(answer, 400, "The parent invocation ID is missing")
    answer = await api.get(path, params={"parent_invocation_id": "inv-1"})
    assert_error(answer, 400, "The parent function name is missing")


async def test_an_unknown_parent_has_no_children(api: Api, function: str, three: list[str]) -> None:
    for parent_function_name, parent_id in (("standard", "inv-1"), ("none", three[0])):
        page = await _page(
            api,
            function,
            parent_function_name=parent_function_name,
            parent_invocation_id=parent_id,
        )
        assert page["invocations"] == []
        assert page["next_offset"] is None

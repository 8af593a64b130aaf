"""Pages of logs."""

from datetime import UTC, datetime

import pytest

from core.clock import utc_now
from core.states import WorkerStatus
from registry.database.engine import Registry
from registry.database.tables import LogChunk
from registry.queries.logs import LogTail, append_lines, read_tail
from tests.support.api import Api, assert_error, execution_id_of, id_of
from tests.support.harness import Json

WORKER = {"id": "1"}


@pytest.fixture
async def execution(api: Api, function: str) -> str:
    return await api.add_execution(await api.invoke(function), worker=WORKER)


async def _page(api: Api, execution: str, **params: object) -> tuple[list[str], str | None]:
    page: Json = await api.ok("GET", f"{execution}/logs", params=params)
    return page["log_lines"], page["next_offset"]


async def test_without_a_worker_there_is_no_log(api: Api, function: str) -> None:
    invocation = await api.invoke(function)
    execution = await api.add_execution(invocation, worker_status=WorkerStatus.PROVISIONING)
    seen = await api.ok("GET", execution)
    assert await api.ok("GET", f"{execution}/logs") == {
        "project_name": "shop",
        "version_id": seen["version_id"],
        "function_name": "standard",
        "invocation_id": id_of(invocation),
        "execution_id": id_of(execution),
        "log_lines": [],
        "next_offset": None,
    }


async def test_pages_go_on_across_chunks_and_end_with_the_worker(api: Api, execution: str) -> None:
    await api.add_log_lines(execution, ["0", "1", "2"], ["3"], ["4", "5"])
    assert await _page(api, execution, max_lines=2) == (["0", "1"], "2")
    assert await _page(api, execution, max_lines=3, initial_offset=2) == (["2", "3", "4"], "5")
    assert await _page(api, execution, initial_offset=5) == (["5"], "6")
    # More may come.
    assert await _page(api, execution, initial_offset=6) == ([], "6")
    assert await _page(api, execution, initial_offset=1000) == ([], "1000")
    await api.change_execution(execution, worker_status=WorkerStatus.TERMINATED)
    assert await _page(api, execution, initial_offset=2, max_lines=2) == (["2", "3"], "4")
    assert await _page(api, execution, initial_offset=4, max_lines=2) == (["4", "5"], None)
    assert await _page(api, execution) == (["0", "1", "2", "3", "4", "5"], None)
    assert await _page(api, execution, initial_offset=6) == ([], None)
    assert await _page(api, execution, initial_offset=10**25) == ([], None)


async def test_a_complete_log_ends_though_the_worker_runs(
    api: Api, execution: str, registry: Registry
) -> None:
    """Copiers that have crashed, or were believed dead, neither repeat lines nor lose the end."""
    copied = execution_id_of(execution)

    async def copy(tail: LogTail, *lines: str, complete: bool = False) -> LogTail:
        async with registry.transaction() as session:
            return await append_lines(
                session,
                copied,
                tail=tail,
                lines=list(lines),
                next_offset=f"after {lines[-1]}" if lines else tail.next_offset,
                complete=complete,
            )

    async def tail_of_the_next_copier() -> LogTail:
        async with registry.autocommit() as session:
            return await read_tail(session, copied)

    start = await tail_of_the_next_copier()
    assert start == LogTail(0, "")
    tail = await copy(start, "0", "1")
    assert tail == await tail_of_the_next_copier() == LogTail(2, "after 1")
    # A slower one, from the same start, has a longer page: it goes on from where the first is.
    assert await copy(start, "0", "1", "2", complete=True) == tail
    assert await _page(api, execution) == (["0", "1"], "2")

    end = await copy(tail, "2", complete=True)
    assert end == await tail_of_the_next_copier() == LogTail(3, "after 2", complete=True)
    assert await copy(tail, "2", complete=True) == end
    assert await copy(end, complete=True) == end
    assert await _page(api, execution) == (["0", "1", "2"], None)
    assert await _page(api, execution, max_lines=2) == (["0", "1"], "2")
    assert await _page(api, execution, max_lines=2, initial_offset=2) == (["2"], None)
    seen = await api.ok("GET", execution)
    assert seen["worker_status"] == "RUNNING"


async def test_a_complete_log_may_be_empty(api: Api, execution: str, registry: Registry) -> None:
    copied = execution_id_of(execution)
    async with registry.transaction() as session:
        tail = await append_lines(
            session, copied, tail=LogTail(0, ""), lines=[], next_offset="", complete=True
        )
        assert tail == await read_tail(session, copied) == LogTail(0, "", complete=True)
    assert await _page(api, execution) == ([], None)


async def test_a_running_worker_without_output_has_an_offset(api: Api, execution: str) -> None:
    assert await _page(api, execution) == ([], "0")


async def test_no_lines_are_given_for_max_lines_0(api: Api, execution: str) -> None:
    await api.add_log_lines(execution, ["0", "1"])
    assert await _page(api, execution, max_lines=0) == ([], "0")
    assert await _page(api, execution, max_lines=0, initial_offset=1) == ([], "1")
    await api.change_execution(execution, worker_status=WorkerStatus.TERMINATED)
    assert await _page(api, execution, max_lines=0, initial_offset=1) == ([], "1")
    assert await _page(api, execution, max_lines=0, initial_offset=2) == ([], None)


async def test_250_lines_are_the_default_and_the_most(api: Api, execution: str) -> None:
    await api.add_log_lines(execution, [str(n) for n in range(200)], [str(n) for n in range(200)])
    for params in ({}, {"max_lines": 250}, {"max_lines": 10**9}):
        lines, next_offset = await _page(api, execution, **params)
        assert (len(lines), next_offset) == (250, "250")


async def test_the_last_lines_are_those_before_the_present_end(api: Api, execution: str) -> None:
    assert await _page(api, execution, tail=5) == ([], "0")
    await api.add_log_lines(execution, ["0", "1", "2"], ["3"], ["4", "5"])
    assert await _page(api, execution, tail=0) == ([], "6")
    assert await _page(api, execution, tail=1) == (["5"], "6")
    assert await _page(api, execution, tail=4) == (["2", "3", "4", "5"], "6")
    for many in (6, 7, 10**30):
        assert await _page(api, execution, tail=many) == (["0", "1", "2", "3", "4", "5"], "6")
    # Of several places, the last one counts.
    assert await _page(api, execution, tail=2, initial_offset=1) == (["4", "5"], "6")
    assert await _page(api, execution, tail=2, initial_offset=5) == (["5"], "6")


async def test_lines_since_a_time_are_those_that_were_copied_then(
    api: Api, execution: str, registry: Registry
) -> None:
    await api.add_log_lines(execution, ["of an older server"], ["1", "2"], ["3"], ["4", "5"])
    async with registry.transaction() as session:
        for first_line, second in ((0, None), (1, 100), (3, 200), (4, 300)):
            chunk = await session.get_one(LogChunk, (id_of(execution), first_line))
            chunk.copied_at = None if second is None else datetime.fromtimestamp(second, UTC)
    for since, lines in (
        (0, ["1", "2", "3", "4", "5"]),
        (100, ["1", "2", "3", "4", "5"]),
        (100.5, ["3", "4", "5"]),
        (300, ["4", "5"]),
        (301, []),
        (253_402_300_799, []),
    ):
        assert await _page(api, execution, since=since) == (lines, "6")
    assert await _page(api, execution, since=200, max_lines=1) == (["3"], "4")
    assert await _page(api, execution, since=200, tail=1) == (["5"], "6")
    assert await _page(api, execution, since=200, tail=5) == (["3", "4", "5"], "6")


async def test_lines_have_the_time_at_which_they_are_copied(
    api: Api, execution: str, registry: Registry
) -> None:
    before = utc_now().timestamp()
    async with registry.transaction() as session:
        await append_lines(
            session,
            execution_id_of(execution),
            tail=LogTail(0, ""),
            lines=["now"],
            next_offset="1",
        )
    # The clocks of this process and of Postgres are the same machine's.
    assert await _page(api, execution, since=before - 1) == (["now"], "1")
    assert await _page(api, execution, since=before + 3600) == ([], "1")


@pytest.mark.parametrize(
    ("name", "value"),
    [("tail", "-1"), ("tail", "x"), ("since", "-1"), ("since", "nan"), ("since", "1e300")],
)
async def test_a_bad_place_to_begin_at_is_422(
    api: Api, execution: str, name: str, value: str
) -> None:
    answer = await api.get(f"{execution}/logs", params={name: value})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", name]


@pytest.mark.parametrize("offset", ["", "x", "-1", "1.5", "0,1", "\u0661", "9" * 5000])
async def test_a_bad_offset_is_400(api: Api, execution: str, offset: str) -> None:
    answer = await api.get(f"{execution}/logs", params={"initial_offset": offset})
    assert_error(answer, 400, "The next offset is in an invalid format")


@pytest.mark.parametrize("value", ["-1", "x", "1.5"])
async def test_a_bad_number_of_lines_is_422(api: Api, execution: str, value: str) -> None:
    answer = await api.get(f"{execution}/logs", params={"max_lines": value})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "max_lines"]

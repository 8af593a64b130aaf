"""Calls of deployed functions through `Function` and `Invocation`."""

import asyncio
import gc
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from control_plane import (
    Client,
    ControlPlaneError,
    Function,
    Invocation,
    InvocationCancelledError,
    InvocationFailedError,
    InvocationTimedOutError,
    NotFoundError,
    WaitTimeoutError,
)
from control_plane._define.decorator import DefinedFunction
from control_plane.deploy import deploy

from tests.support.sdk.project import main
from tests.support.stack.stack import API_KEY, Stack

FOLDER = Path(main.__file__).parent


@pytest.fixture(scope="session")
def version(stack: Stack) -> str:
    with Client(stack.caller.url, API_KEY) as client:
        return deploy(client, FOLDER, project="library").version_id


@pytest.fixture(autouse=True)
def surroundings(stack: Stack, version: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment names server, key and project. The functions have the names of a main.py."""
    del version
    monkeypatch.setenv("CONTROL_PLANE_API_URL", stack.caller.url)
    monkeypatch.setenv("CONTROL_PLANE_API_KEY", API_KEY)
    monkeypatch.setenv("CONTROL_PLANE_PROJECT_NAME", "library")
    for each in vars(main).values():
        if isinstance(each, DefinedFunction):
            monkeypatch.setattr(each, "name", each.__name__)
    yield
    # Connections that nobody holds any more would be reported in a later test.
    gc.collect()


def until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_call_gives_the_result() -> None:
    assert main.square.call(7) == 49
    assert main.greet.call("Ada") == "Hello, Ada!"
    assert main.letters.call("abc") == "c"
    assert main.join.call("a", times=2) == "a-a-"
    assert main.join.call("a", second="b") == "ab"
    by_name = Function.from_name("library", "join")
    assert by_name.call("a", "b") == "ab"
    assert by_name.call(first="a", second="c") == "ac"
    with pytest.raises(TypeError, match="all arguments by position, or all by name"):
        by_name.call("a", second="c")
    with pytest.raises(TypeError, match="missing a required argument"):
        main.square.call()  # type: ignore[call-arg]  # what is tested
    with pytest.raises(TypeError, match="The arguments are not JSON"):
        main.greet.call({1, 2})  # type: ignore[arg-type]  # what is tested
    with pytest.raises(ValueError, match="the limit is 250,000"):
        main.greet.call("x" * 250_000)


async def test_async_twins_do_the_same(tmp_path: Path) -> None:
    results = await asyncio.gather(*(main.square.call_async(n) for n in range(3)))
    assert results == [0, 1, 4]
    gate = tmp_path / "gate"
    call = await main.hold.start_async(str(gate))
    assert (await call.status_async()).has_ended is False
    assert (await main.hold.invocation_async(call.id)).path == call.path
    with pytest.raises(WaitTimeoutError):
        await call.result_async(timeout=0)
    gate.touch()
    assert await call.result_async(timeout=60) == call.id
    assert [line async for line in call.logs_async(follow=True)] == ["waiting"]
    values = [v async for v in (await main.letters.start_async("ab")).stream_async()]
    assert values[-1] == "b"
    squares = [n async for n in main.square.map_async(range(5), max_parallel=2)]
    assert squares == [0, 1, 4, 9, 16]


def test_error_of_the_function_is_raised_with_its_traceback() -> None:
    call = main.refuse.start("broccoli")
    with pytest.raises(InvocationFailedError) as caught:
        call.result(timeout=60)
    error = caught.value
    assert error.error == "ValueError: no such flavour:\n\nbroccoli"
    assert error.remote_traceback.startswith("Traceback (most recent call last):\n")
    assert "in refuse" in error.remote_traceback
    assert error.remote_traceback in str(error)
    assert [each.attempt for each in error.invocation.executions] == [1, 2]
    assert [line for line in call.logs() if line.startswith("attempt")] == [
        "attempt 1",
        "attempt 2",
    ]


def test_lost_worker_and_time_limit_are_told_apart() -> None:
    lost, slow = main.lost.start(), main.too_slow.start()
    with pytest.raises(InvocationFailedError) as caught:
        lost.result(timeout=60)
    assert caught.value.invocation.executions[-1].cause == "worker_lost"
    assert caught.value.error
    with pytest.raises(InvocationTimedOutError, match="did not end within 2 seconds"):
        slow.result(timeout=60)


def test_handle_shows_progress_and_cancels(tmp_path: Path, stack: Stack) -> None:
    del stack
    call = main.hold.start(str(tmp_path / "never"))
    states = call.watch()
    seen = next(state for state in states if state.progress)
    assert seen.progress == {
        "done": 1,
        "total": 2,
        "message": "waiting",
        "place": [str(tmp_path / "never")],
    }
    assert seen.phase == "RUNNING"
    lines = call.logs(follow=True)
    assert next(lines) == "waiting"
    call.cancel()
    *_, last = states
    assert last.phase == "CANCELLED"
    with pytest.raises(InvocationCancelledError, match=call.id):
        call.result()
    assert all(line != "waiting" for line in lines)
    call.cancel()
    assert call.url is None or call.url.startswith("http")
    again = main.hold.invocation(call.id)
    assert again.status().phase == "CANCELLED"
    with pytest.raises(NotFoundError):
        main.square.invocation(call.id).status()


def test_values_of_a_generator_are_streamed(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    stream = main.count.start(str(gate)).stream()
    for step in (1, 2, 3):
        assert next(stream) == {"step": step}
        gate.with_name(f"gate.{step}").touch()
    assert list(stream) == []
    failing = main.refuse.start("stream").stream()
    with pytest.raises(InvocationFailedError):
        list(failing)


def test_idempotency_key_names_a_call() -> None:
    key = uuid.uuid4().hex
    first = main.square.options(idempotency_key=key).start(3)
    assert main.square.options(idempotency_key=key).start(3).id == first.id
    assert main.square.start(3).id != first.id
    keyed = main.square.options(idempotency_key=f"{key} map")
    assert list(keyed.map([1, 77])) == list(keyed.map([1, 77])) == [1, 5929]
    with Client() as client:
        inputs = [
            client.get_invocation(keyed.invocation(each.invocation_id).path).input
            for each in client.iterate_invocations("library", "square")
        ]
    assert inputs.count("[77]") == 1


def test_map_bounds_the_calls_that_are_open(tmp_path: Path) -> None:
    gate, reports = tmp_path / "gate", []
    results: list[str] = []

    def consume() -> None:
        for result in main.hold.map(
            [str(gate)] * 7, max_parallel=3, progress=lambda *counts: reports.append(counts)
        ):
            results.append(result)  # noqa: PERF402 - a list would be there at the end only

    def running() -> list[str]:
        with Client() as client:
            found = client.iterate_invocations("library", "hold", status="RUNNING")
            return [each.invocation_id for each in found]

    thread = threading.Thread(target=consume)
    thread.start()
    until(lambda: len(running()) == 3)
    assert reports == [(0, 7)]
    gate.touch()
    thread.join(60)
    assert len(set(results)) == 7
    assert [done for done, total in reports if total == 7] == list(range(8))


def test_map_gives_results_in_order_or_as_they_come(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    second.touch()
    unordered = main.hold.map([str(first), str(second)], ordered=False)
    early = next(unordered)
    first.touch()
    (late,) = unordered
    assert main.hold.invocation(early).status().input == f'["{second}"]'
    assert main.hold.invocation(late).status().input == f'["{first}"]'
    assert list(main.square.map(iter(range(9)), max_parallel=4)) == [n * n for n in range(9)]
    assert list(main.join.starmap([("a", "b"), ("c",)])) == ["ab", "c-"]
    assert list(main.square.map([])) == []


def test_map_cancels_what_is_open_when_a_call_fails(tmp_path: Path) -> None:
    gate = str(tmp_path / "never")
    either = Function.from_name("library", "hold")
    calls = either.starmap([(gate,), (gate,), (1, 2, 3, "wrong")], ordered=False)
    with pytest.raises(InvocationFailedError, match="InputError"):
        next(calls)
    with Client() as client:
        until(lambda: not list(client.iterate_invocations("library", "hold", status="RUNNING")))
        ended = client.list_invocations("library", "hold", max_results=3).invocations
    assert sorted(each.phase for each in ended) == ["CANCELLED", "CANCELLED", "FAILED"]


def test_map_gives_errors_in_place_of_results(tmp_path: Path) -> None:
    del tmp_path
    results = list(main.square.map([1, "x", 3], return_exceptions=True))  # type: ignore[list-item]  # "x" * "x" is no number
    assert results[0::2] == [1, 9]
    assert isinstance(results[1], InvocationFailedError)
    missing = Function.from_name("library", "nothing")
    (error,) = missing.map([1], return_exceptions=True)
    assert isinstance(error, NotFoundError)
    with pytest.raises(ValueError, match="max_parallel is 0"):
        list(main.square.map([1], max_parallel=0))
    assert issubclass(InvocationFailedError, ControlPlaneError)


def children_of(call: Invocation[object], function: str) -> list[str]:
    with Client() as client:
        found = client.iterate_invocations(
            "library", function, parent=(call.path.function_name, call.id)
        )
        return [each.phase for each in found]


def test_calls_inside_a_function_are_its_children() -> None:
    plain, in_a_loop = main.sum_of_squares.start([1, 2, 3]), main.sum_of_squares_async.start([1, 2])
    assert plain.result(timeout=60) == 14
    assert in_a_loop.result(timeout=60) == 1 + 4 + 10_000
    assert children_of(plain, "square") == ["SUCCEEDED"] * 3
    assert children_of(in_a_loop, "square") == ["SUCCEEDED"] * 3


def test_cancel_reaches_a_parent_that_waits_for_its_child(tmp_path: Path) -> None:
    call = main.calls_a_child.start(str(tmp_path / "never"))
    until(lambda: children_of(call, "hold") == ["RUNNING"])
    call.cancel()
    with pytest.raises(InvocationCancelledError):
        call.result(timeout=60)
    until(lambda: children_of(call, "hold") == ["CANCELLED"])

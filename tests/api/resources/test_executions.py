"""Executions: rules EXE (without EXE-8, which is about a list that is not served)."""

import asyncio
import uuid

import pytest

from core.clock import utc_now
from core.ids import run_id_of_execution
from core.states import Cause, Outcome, Phase, WorkerStatus
from tests.support.api import Api, assert_error, id_of
from tests.support.harness import STANDARD, UI_URL, Json

NOT_STARTED = (409, "This execution has not yet started")
STARTED = (409, "This execution has already started")
FINISHED = (409, "This execution has already finished")
TERMINATED = (409, "This execution has already terminated")
NO_EXECUTION = (404, "An execution with this ID does not exist for this invocation")
SUCCEEDED: Json = {"outcome": "SUCCEEDED", "final_output": "out"}


@pytest.fixture
async def invocation(api: Api, function: str) -> str:
    return await api.invoke(function)


@pytest.fixture
async def execution(api: Api, invocation: str) -> str:
    return await api.add_execution(invocation)


async def test_exe_1_an_execution_shows_itself_and_its_invocation(
    api: Api, invocation: str
) -> None:
    missing = f"{invocation}/executions/exe-{uuid.uuid4().hex}"
    assert_error(await api.get(missing), *NO_EXECUTION)
    execution = await api.add_execution(invocation)
    seen, whole = await api.ok("GET", execution), await api.ok("GET", invocation)
    summary = {
        "execution_id": id_of(execution),
        "worker_status": "RUNNING",
        "worker_details": None,
        "termination_signal_sent": False,
        "termination_signal_time": None,
        "outcome": None,
        "output": None,
        "error_message": None,
        "creation_time": seen["creation_time"],
        "last_update_time": seen["creation_time"],
        "execution_start_time": None,
        "execution_finish_time": None,
        "attempt": 1,
        "cause": None,
        "worker": None,
        "progress": None,
        "temporal_url": (
            f"{UI_URL}/namespaces/default/workflows/{id_of(invocation)}"
            f"/{run_id_of_execution(id_of(execution))}/history"
        ),
    }
    assert type(seen["creation_time"]) is int
    assert seen == {
        **summary,
        "project_name": "shop",
        "version_id": whole["version_id"],
        "function_name": "standard",
        "invocation_id": id_of(invocation),
        "input": "the input",
        "cancellation_requested": False,
        "cancellation_request_time": None,
        "resource_spec": STANDARD["resource_spec"],
        "execution_spec": STANDARD["execution_spec"],
        "function_status": "PENDING",
        "prepared_function_details": None,
        "invocation_creation_time": whole["creation_time"],
    }
    assert whole["executions"] == [summary]
    cancelled = await api.ok("PUT", f"{invocation}/cancel")
    seen = await api.ok("GET", execution)
    assert seen["cancellation_requested"] is True
    assert seen["cancellation_request_time"] == cancelled["cancellation_request_time"]


async def test_exe_2_executions_of_two_invocations_are_kept_apart(
    api: Api, function: str, execution: str
) -> None:
    other = await api.invoke(function)
    await api.add_execution(other)
    elsewhere = f"{other}/executions/{id_of(execution)}"
    for method, suffix, body in (
        ("GET", "", None),
        ("GET", "/logs", None),
        ("PUT", "/start", None),
        ("PUT", "/update", {"latest_output": ""}),
        ("PUT", "/progress", {"progress": {}}),
        ("PUT", "/finish", SUCCEEDED),
    ):
        answer = await api.request(method, f"{elsewhere}{suffix}", json=body)
        assert_error(answer, *NO_EXECUTION)


async def test_exe_3_worker_details_are_shown_for_that_execution_only(
    api: Api, function: str, execution: str
) -> None:
    other = await api.add_execution(
        await api.invoke(function), worker_status=WorkerStatus.PROVISIONING
    )
    before = await api.ok("GET", other)
    details = {"type": "TEST", "identifier": "a/b", "logs_identifier": "mocked"}
    await api.change_execution(
        execution, worker_details=details, worker={"id": 4711, "host": "node-1", "more": [1]}
    )
    seen = await api.ok("GET", execution)
    assert seen["worker_details"] == details
    assert seen["worker"] == {
        "provisioner": "process",
        "id": "4711",
        "host": "node-1",
        "exit_code": None,
        "cause": None,
    }
    assert await api.ok("GET", other) == before
    await api.change_execution(
        execution, worker_status=WorkerStatus.TERMINATED, cause=Cause.OUT_OF_MEMORY, exit_code=137
    )
    seen = await api.ok("GET", execution)
    assert seen["cause"] == "out_of_memory"
    assert seen["worker"]["exit_code"] == 137
    assert seen["worker"]["cause"] == "out_of_memory"


async def test_exe_4_the_termination_signal_is_shown(
    api: Api, invocation: str, execution: str
) -> None:
    now = utc_now()
    await api.change_execution(execution, termination_signal_at=now)
    for seen in (
        await api.ok("GET", execution),
        (await api.ok("GET", invocation))["executions"][0],
    ):
        assert seen["termination_signal_sent"] is True
        assert seen["termination_signal_time"] == int(now.timestamp())


async def test_exe_5_a_start_is_recorded_once(api: Api, invocation: str, execution: str) -> None:
    started = await api.ok("PUT", f"{execution}/start")
    assert type(started["execution_start_time"]) is int
    assert await api.ok("GET", execution) == started
    listed = (await api.ok("GET", invocation))["executions"][0]
    assert listed["execution_start_time"] == started["execution_start_time"]
    assert_error(await api.put(f"{execution}/start"), *STARTED)
    assert await api.ok("GET", execution) == started


async def test_exe_5_a_terminated_execution_cannot_start(api: Api, execution: str) -> None:
    await api.change_execution(execution, worker_status=WorkerStatus.TERMINATED)
    assert_error(await api.put(f"{execution}/start"), *TERMINATED)
    assert (await api.ok("GET", execution))["execution_start_time"] is None


async def test_exe_6_results_are_recorded_once(api: Api, invocation: str, execution: str) -> None:
    finish = f"{execution}/finish"
    before = await api.ok("GET", execution)
    assert_error(await api.put(finish, json=SUCCEEDED), *NOT_STARTED)
    assert_error(await api.put(f"{execution}/update", json={"latest_output": "x"}), *NOT_STARTED)
    assert await api.ok("GET", execution) == before

    await api.ok("PUT", f"{execution}/start")
    failed = {"outcome": "FAILED", "final_output": "part", "error_message": "E: no"}
    finished = await api.ok("PUT", finish, json=failed)
    assert type(finished["execution_finish_time"]) is int
    shown = [finished[name] for name in ("outcome", "output", "error_message")]
    assert shown == ["FAILED", "part", "E: no"]
    assert await api.ok("GET", execution) == finished
    listed = (await api.ok("GET", invocation))["executions"][0]
    assert [listed[name] for name in ("outcome", "output", "error_message")] == shown

    assert_error(await api.put(finish, json=SUCCEEDED), *FINISHED)
    assert_error(await api.put(f"{execution}/update", json={"latest_output": "x"}), *FINISHED)
    assert_error(await api.put(f"{execution}/start"), *STARTED)
    assert await api.ok("GET", execution) == finished


async def test_the_order_of_the_409s_is_not_started_started_finished_terminated(
    api: Api, execution: str
) -> None:
    update = {"latest_output": "x"}
    ended = {"worker_status": WorkerStatus.TERMINATED}
    await api.change_execution(execution, **ended)
    assert_error(await api.put(f"{execution}/start"), *TERMINATED)
    assert_error(await api.put(f"{execution}/finish", json=SUCCEEDED), *NOT_STARTED)
    assert_error(await api.put(f"{execution}/update", json=update), *NOT_STARTED)
    await api.change_execution(execution, started_at=utc_now())
    assert_error(await api.put(f"{execution}/start"), *STARTED)
    assert_error(await api.put(f"{execution}/finish", json=SUCCEEDED), *TERMINATED)
    assert_error(await api.put(f"{execution}/update", json=update), *TERMINATED)
    await api.change_execution(execution, finished_at=utc_now(), outcome=Outcome.ABORTED)
    assert_error(await api.put(f"{execution}/finish", json=SUCCEEDED), *FINISHED)
    assert_error(await api.put(f"{execution}/update", json=update), *FINISHED)
    # What the request says is judged before any of it.
    assert (await api.put(f"{execution}/finish", json={})).status_code == 422


@pytest.mark.parametrize(("final_output", "kept"), [(None, "last"), ("", ""), ("final", "final")])
async def test_a_null_output_keeps_the_last_one_and_an_empty_one_replaces_it(
    api: Api, execution: str, final_output: str | None, kept: str
) -> None:
    await api.ok("PUT", f"{execution}/start")
    await api.ok("PUT", f"{execution}/update", json={"latest_output": "first"})
    seen = await api.ok("PUT", f"{execution}/update", json={"latest_output": "last"})
    assert (seen["output"], seen["outcome"], seen["execution_finish_time"]) == ("last", None, None)
    body = {"outcome": "SUCCEEDED", "final_output": final_output}
    assert (await api.ok("PUT", f"{execution}/finish", json=body))["output"] == kept


async def test_progress_is_kept_as_it_came_and_only_while_the_worker_runs(
    api: Api, invocation: str, execution: str
) -> None:
    path, body = f"{execution}/progress", {"progress": {"done": 1}}
    assert_error(await api.put(path, json=body), *NOT_STARTED)
    await api.ok("PUT", f"{execution}/start")
    assert (await api.ok("PUT", path, json=body))["progress"] == {"done": 1}
    odd = {"big": 1e300, "deep": [{"é": None}], "exact": 10**30, "": True}
    seen = await api.ok("PUT", path, json={"progress": odd})
    assert seen["progress"] == odd
    assert type(seen["progress"]["big"]) is float
    assert await api.ok("GET", execution) == seen
    whole = await api.ok("GET", invocation)
    assert whole["executions"][0]["progress"] == odd
    assert seen["output"] is None
    await api.ok("PUT", f"{execution}/finish", json=SUCCEEDED)
    assert_error(await api.put(path, json=body), *FINISHED)
    await api.change_execution(execution, finished_at=None, worker_status=WorkerStatus.TERMINATED)
    assert_error(await api.put(path, json=body), *TERMINATED)
    assert (await api.ok("GET", execution))["progress"] == odd


async def test_worker_calls_change_neither_the_worker_status_nor_the_invocation(
    api: Api, invocation: str, execution: str
) -> None:
    earlier = utc_now().replace(year=2020)
    await api.change_execution(
        execution, worker_status=WorkerStatus.PROVISIONING, updated_at=earlier
    )
    await api.change_invocation(invocation, updated_at=earlier, phase=Phase.PROVISIONING)
    started = await api.ok("PUT", f"{execution}/start")
    assert started["last_update_time"] > int(earlier.timestamp())
    await api.ok("PUT", f"{execution}/update", json={"latest_output": "x"})
    finished = await api.ok("PUT", f"{execution}/finish", json=SUCCEEDED)
    assert finished["worker_status"] == "PROVISIONING"
    seen = await api.ok("GET", invocation)
    assert seen["last_update_time"] == int(earlier.timestamp())
    assert seen["invocation_status"] == "RUNNING"
    # The finer phase follows the start.
    assert seen["phase"] == "RUNNING"


async def test_a_start_does_not_take_a_cancelling_invocation_back(
    api: Api, invocation: str, execution: str
) -> None:
    await api.change_invocation(invocation, phase=Phase.CANCELLING)
    await api.ok("PUT", f"{execution}/start")
    assert (await api.ok("GET", invocation))["phase"] == "CANCELLING"


async def test_a_result_after_the_termination_signal_counts(api: Api, execution: str) -> None:
    await api.ok("PUT", f"{execution}/start")
    await api.change_execution(execution, termination_signal_at=utc_now())
    await api.ok("PUT", f"{execution}/update", json={"latest_output": "x"})
    assert (await api.ok("PUT", f"{execution}/finish", json={"outcome": "ABORTED"}))[
        "outcome"
    ] == "ABORTED"


async def test_of_several_starts_and_finishes_at_once_one_counts(api: Api, execution: str) -> None:
    starts = await asyncio.gather(*(api.put(f"{execution}/start") for _ in range(5)))
    assert sorted(answer.status_code for answer in starts) == [200, 409, 409, 409, 409]
    bodies = [{"outcome": "SUCCEEDED", "final_output": str(number)} for number in range(5)]
    finishes = await asyncio.gather(*(api.put(f"{execution}/finish", json=body) for body in bodies))
    assert sorted(answer.status_code for answer in finishes) == [200, 409, 409, 409, 409]
    [counted] = [answer.json() for answer in finishes if answer.status_code == 200]
    assert await api.ok("GET", execution) == counted

"""The dev provisioner in a whole control plane: the tests play the workers, as a person would."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client

from core.ids import InvocationId, VersionId
from core.settings import RegistrySettings
from core.states import Outcome
from provisioners.dev import DevProvisioner
from registry.database.engine import Registry
from registry.queries.paths import ExecutionPath
from registry.transitions.reports import finish_execution
from tests.support.harness import (
    RETRYABLE,
    STANDARD,
    ControlPlane,
    Json,
    RunningExecution,
    eventually,
    running_control_plane,
)

LINES = [f"line-{number}" for number in range(100)]

Start = Callable[[], AbstractAsyncContextManager[ControlPlane]]


@pytest.fixture
def start(registry: Registry, temporal_client: Client, task_queue: str) -> Start:
    """Starts a control plane; the next one finds what the one before has left."""

    def start() -> AbstractAsyncContextManager[ControlPlane]:
        return running_control_plane(
            registry,
            temporal_client,
            task_queue,
            provisioner=DevProvisioner(lag=2, pause=0.05),
        )

    return start


@pytest.fixture
async def plane(start: Start) -> AsyncIterator[ControlPlane]:
    async with start() as running:
        yield running


def is_signalled(seen: Json) -> bool:
    return str(seen["phase_detail"]).endswith("; waiting until the worker is gone")


def assert_runs_on(seen: Json) -> None:
    (execution,) = seen["executions"]
    assert seen["phase"] == "CANCELLING"
    assert execution["termination_signal_time"] is not None
    assert execution["worker_status"] == "RUNNING"


def running_in(plane: ControlPlane, run: RunningExecution) -> RunningExecution:
    return RunningExecution(plane, run.path, run.id)


async def place_of(run: RunningExecution, plane: ControlPlane) -> ExecutionPath:
    seen = await plane.get(run.path)
    return ExecutionPath(
        project_name=seen["project_name"],
        version_id=VersionId(seen["version_id"]),
        function_name=seen["function_name"],
        invocation_id=InvocationId(seen["invocation_id"]),
        execution_id=run.id,
    )


async def succeed(session: AsyncSession, place: ExecutionPath) -> None:
    """Report an outcome past this process's API."""
    await finish_execution(
        session, place, outcome=Outcome.SUCCEEDED, final_output="42", error_message=None
    )


async def test_dev_1_a_worker_is_played_from_start_to_end(plane: ControlPlane) -> None:
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard", argument=1)
    run = await plane.until_worker_runs(path)

    seen = await plane.get(run.path)
    assert seen["prepared_function_details"] == {"type": "TEST", "identifier": "mocked"}
    names = (seen[f"{name}"] for name in ("project_name", "version_id", "function_name"))
    assert seen["worker_details"] == {
        "type": "TEST",
        "identifier": "/".join([*names, seen["invocation_id"], run.id]),
        "logs_identifier": "mocked",
    }
    assert seen["worker"]["provisioner"] == "dev"

    await run.start()
    await run.update("half way")
    assert (await plane.get(run.path))["output"] == "half way"
    finished = await run.finish("SUCCEEDED", output="done")
    # It runs on for a little.
    assert finished["worker_status"] == "RUNNING"

    over = await plane.until_terminated(path)
    (execution,) = over["executions"]
    assert over["phase"] == "SUCCEEDED"
    assert execution["worker_status"] == "TERMINATED"
    assert (execution["outcome"], execution["output"]) == ("SUCCEEDED", "done")


async def test_dev_1_a_failed_execution_is_followed_by_the_next(plane: ControlPlane) -> None:
    await plane.deploy(RETRYABLE)
    path = await plane.invoke("retryable")
    first = await plane.until_worker_runs(path)
    await first.start()
    await first.finish("FAILED", error="ValueError: no")

    second = await plane.until_worker_runs(path, attempt=2)
    await second.start()
    await second.finish("SUCCEEDED", output="at last")

    over = await plane.until_terminated(path)
    assert [e["outcome"] for e in over["executions"]] == ["FAILED", "SUCCEEDED"]
    assert over["phase"] == "SUCCEEDED"


async def test_dev_2_a_cancelled_worker_runs_until_it_has_finished(plane: ControlPlane) -> None:
    await plane.deploy(RETRYABLE)
    path = await plane.invoke("retryable")
    run = await plane.until_worker_runs(path)
    await run.start()
    await plane.call("PUT", f"{path}/cancel")

    seen = await plane.until(path, is_signalled)
    assert seen["phase_detail"] == "cancellation was requested; waiting until the worker is gone"
    assert_runs_on(seen)
    # As many checks as would have ended it, had it finished, and more.
    await asyncio.sleep(1)
    assert_runs_on(await plane.get(path))

    await run.update("tidied up")
    await run.finish("ABORTED")

    over = await plane.until_terminated(path)
    assert over["phase"] == "CANCELLED"
    (execution,) = over["executions"]
    assert (execution["outcome"], execution["output"]) == ("ABORTED", "tidied up")


async def test_dev_2_a_worker_runs_on_after_the_timeout(plane: ControlPlane) -> None:
    path, run, _ = await plane.run_until_timeout(least=2)
    await run.start()

    seen = await plane.until(path, is_signalled)
    assert seen["phase_detail"] == "the timeout has passed; waiting until the worker is gone"
    assert_runs_on(seen)
    await run.finish("ABORTED")

    assert (await plane.until_terminated(path))["phase"] == "TIMED_OUT"


async def test_dev_1_dev_2_workers_outlive_the_temporal_worker(start: Start) -> None:
    async with start() as plane:
        await plane.deploy(STANDARD)
        paths = [await plane.invoke("standard", argument=n) for n in range(2)]
        runs = [await plane.until_worker_runs(path) for path in paths]
        for run in runs:
            await run.start()
        await plane.call("PUT", f"{paths[1]}/cancel")
        await plane.until(paths[1], is_signalled)

    async with start() as plane:
        for path in paths:
            seen = await plane.get(path)
            assert seen["invocation_status"] == "RUNNING"
            assert [e["worker_status"] for e in seen["executions"]] == ["RUNNING"]
        await running_in(plane, runs[0]).finish("SUCCEEDED", output="42")
        await running_in(plane, runs[1]).finish("ABORTED")
        over = [await plane.until_terminated(path) for path in paths]
        assert [seen["phase"] for seen in over] == ["SUCCEEDED", "CANCELLED"]
        assert [len(seen["executions"]) for seen in over] == [1, 1]


async def test_dev_1_an_outcome_without_any_temporal_worker_counts(
    start: Start, registry: Registry
) -> None:
    async with start() as plane:
        await plane.deploy(STANDARD)
        path = await plane.invoke("standard")
        run = await plane.until_worker_runs(path)
        await run.start()
        place = await place_of(run, plane)
    async with registry.transaction() as session:
        await succeed(session, place)

    async with start() as plane:
        over = await plane.until_terminated(path)
        assert over["phase"] == "SUCCEEDED"
        assert [e["output"] for e in over["executions"]] == ["42"]


async def test_dev_1_an_outcome_is_learnt_through_an_interruption_of_postgres(
    start: Start, registry_settings: RegistrySettings
) -> None:
    async with start() as plane:
        await plane.deploy(STANDARD)
        path = await plane.invoke("standard")
        run = await plane.until_worker_runs(path)
        await run.start()
        place = await place_of(run, plane)
        # The control plane's connections are cut, and the outcome comes before it has new ones.
        other = Registry(registry_settings)
        async with other.transaction() as session:
            await session.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
            await succeed(session, place)
        await other.close()

        async def look() -> Json:
            # May be an error at first.
            answer: Json = (await plane.http.get(path)).json()
            return answer

        over = await eventually(look, lambda seen: seen.get("invocation_status") == "TERMINATED")
        assert over["phase"] == "SUCCEEDED"


async def test_dev_3_the_log_is_served_to_its_end_while_the_worker_runs(start: Start) -> None:
    async with start() as plane:
        await plane.deploy(STANDARD)
        path = await plane.invoke("standard")
        run = await plane.until_worker_runs(path)
        logs = f"{run.path}/logs"
        # Null before there is a worker, and again as soon as the log is there.
        page = await plane.until(logs, lambda seen: seen["next_offset"] is None)
        assert page["log_lines"] == LINES

        first = await plane.get(f"{logs}?max_lines=60")
        assert (first["log_lines"], first["next_offset"]) == (LINES[:60], "60")
        second = await plane.get(f"{logs}?max_lines=60&initial_offset=60")
        assert (second["log_lines"], second["next_offset"]) == (LINES[60:], None)
        answer = await plane.http.get(f"{logs}?initial_offset=nonsense")
        assert answer.status_code == 400
        assert answer.json() == {"detail": "The next offset is in an invalid format"}
        assert (await plane.get(run.path))["worker_status"] == "RUNNING"

    async with start() as plane:
        await running_in(plane, run).start()
        await running_in(plane, run).finish("SUCCEEDED")
        await plane.until_terminated(path)
        page = await plane.get(logs)
        assert (page["log_lines"], page["next_offset"]) == (LINES, None)

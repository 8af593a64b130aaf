"""How the status of an invocation reads to clients that exist: CL-10 to CL-18.

Every state is reached through the control plane: workers play their part over the API, and each
answer goes through the strict models of `reading`.
"""

import time
from functools import partial

import pytest

from tests.support.existing_client.connection import Connection
from tests.support.existing_client.library import Function
from tests.support.existing_client.reading import (
    Invocation,
    InvocationInfo,
    InvocationStatus,
    Outcome,
    Status,
    WorkerStatus,
    read,
)
from tests.support.existing_client.worker import SHORT, until_ready, worker_of
from tests.support.harness import ControlPlane, Json, eventually, eventually_true, function_spec


class Call:
    """One invocation of a function, seen with a client's eyes."""

    def __init__(self, plane: ControlPlane, connection: Connection, function: Function) -> None:
        self._connection = connection
        self.function = function
        self.worker = partial(worker_of, plane, connection)

    async def start(self) -> str:
        return self.function.path_of(await self.function.start())

    async def info(self, path: str) -> InvocationInfo:
        return await self._connection.get_invocation(path)

    async def until(self, path: str, status: Status, *, terminated: bool) -> Invocation:
        async def look() -> Invocation:
            return read(await self.info(path))

        return await eventually(
            look, lambda seen: seen.status is status and seen.terminated is terminated
        )

    async def until_over(self, path: str) -> Invocation:
        """Wait for the real end; returns what a client sees then."""
        over = await eventually(
            lambda: self.info(path),
            lambda info: info.invocation_status is InvocationStatus.TERMINATED,
        )
        return read(over)

    async def until_signalled(self, path: str) -> None:
        await eventually(
            lambda: self.info(path),
            lambda info: info.executions[-1].termination_signal_time is not None,
        )

    async def cancel(self, path: str) -> None:
        await self._connection.cancel_invocation(path)


async def deploy(plane: ControlPlane, connection: Connection, spec: Json) -> Call:
    await connection.create_project("shop")
    await connection.create_version("shop", spec)
    await until_ready(connection, "shop")
    name: str = spec["function_name"]
    return Call(plane, connection, await Function.deployed(connection, "shop", name))


async def test_cl_10_a_success_after_a_failure(
    control_plane: ControlPlane, connection: Connection
) -> None:
    """CL-10. A retry never falls into the second of the failure before it, so the last shows."""
    call = await deploy(control_plane, connection, function_spec("f", retries=3))
    path = await call.start()
    await (await call.worker(path)).fail(output="half", error="ValueError: once")
    second = await call.worker(path, attempt=2)
    await second.run(lambda: "whole")
    second.end()
    assert await call.until_over(path) == Invocation(
        status=Status.SUCCEEDED,
        result='"whole"',
        error=None,
        terminated=True,
        num_failed_attempts=1,
    )


async def test_cl_11_a_success_wins_over_a_cancel_and_the_timeout(
    control_plane: ControlPlane, connection: Connection
) -> None:
    call = await deploy(control_plane, connection, function_spec("f", timeout=SHORT, retries=3))
    control_plane.provisioner.obedient = False
    path = await call.start()
    worker = await call.worker(path)
    await worker.start()
    await call.cancel(path)
    created = (await call.info(path)).creation_time
    await eventually_true(lambda: int(time.time()) > created + SHORT)
    await worker.finish(Outcome.SUCCEEDED, output="1")
    worker.end()
    over = await call.until_over(path)
    info = await call.info(path)
    assert info.cancellation_request_time is not None
    assert info.last_update_time > info.creation_time + SHORT
    assert (over.status, over.result, over.error) == (Status.SUCCEEDED, "1", None)


async def test_cl_12_failures_with_attempts_left_read_as_pending(
    control_plane: ControlPlane, connection: Connection
) -> None:
    """CL-12: another invocation has the only slot when the fourth attempt is due."""
    call = await deploy(
        control_plane, connection, function_spec("f", retries=3, concurrency=1, timeout=120)
    )
    path = await call.start()
    for attempt in (1, 2):
        await (await call.worker(path, attempt=attempt)).fail(error="ValueError: again")
    third = await call.worker(path, attempt=3)
    other = await call.start()
    await eventually(
        lambda: control_plane.get(other), lambda seen: "concurrent" in (seen["phase_detail"] or "")
    )
    await third.fail(output="three", error="ValueError: the third")
    await call.worker(other)
    assert read(await call.info(path)) == Invocation(
        status=Status.PENDING,
        result="three",
        error="ValueError: the third",
        terminated=False,
        num_failed_attempts=3,
    )


async def test_cl_13_the_last_failure_shows_before_the_end(
    control_plane: ControlPlane, connection: Connection
) -> None:
    """CL-13: four failures, and a cancel while the last worker is still there."""
    call = await deploy(control_plane, connection, function_spec("f", retries=3))
    control_plane.provisioner.obedient = False
    path = await call.start()
    for attempt in (1, 2, 3):
        await (await call.worker(path, attempt=attempt)).fail(error="ValueError: again")
    last = await call.worker(path, attempt=4)
    await last.start()
    await last.finish(Outcome.FAILED, output="four", error="ValueError: the last")
    failed = Invocation(
        status=Status.FAILED,
        result="four",
        error="ValueError: the last",
        terminated=False,
        num_failed_attempts=4,
    )
    assert read(await call.info(path)) == failed
    await call.cancel(path)
    await call.until_signalled(path)
    assert read(await call.info(path)) == failed
    last.end()
    assert (await call.until_over(path)).status is Status.FAILED


async def test_cl_14_an_aborted_one_after_a_cancel(
    control_plane: ControlPlane, connection: Connection
) -> None:
    call = await deploy(control_plane, connection, function_spec("f", retries=3))
    control_plane.provisioner.obedient = False
    path = await call.start()
    for attempt in (1, 2, 3):
        await (await call.worker(path, attempt=attempt)).fail(error="ValueError: again")
    last = await call.worker(path, attempt=4)
    await last.start()
    await call.cancel(path)
    await call.until_signalled(path)
    await last.finish(Outcome.ABORTED, output="what there was")
    assert read(await call.info(path)).status is Status.CANCELLED
    last.end()
    assert await call.until_over(path) == Invocation(
        status=Status.CANCELLED,
        result="what there was",
        error=None,
        terminated=True,
        num_failed_attempts=3,
    )


@pytest.mark.parametrize("cancelled_too", [False, True])
async def test_cl_15_an_aborted_one_after_the_timeout(
    control_plane: ControlPlane, connection: Connection, *, cancelled_too: bool
) -> None:
    call = await deploy(control_plane, connection, function_spec("f", timeout=SHORT, retries=3))
    control_plane.provisioner.obedient = False
    path = await call.start()
    worker = await call.worker(path)
    await worker.start()
    await call.until_signalled(path)
    if cancelled_too:
        await call.cancel(path)
    await worker.finish(Outcome.ABORTED, output="so far")
    assert read(await call.info(path)).status is Status.TIMED_OUT
    worker.end()
    over = await call.until_over(path)
    assert (over.status, over.result, over.error) == (Status.TIMED_OUT, "so far", None)
    assert ((await call.info(path)).cancellation_request_time is not None) is cancelled_too


async def test_cl_16_running_and_cancelling(
    control_plane: ControlPlane, connection: Connection
) -> None:
    """CL-16, with a failed attempt before; and CL-17 until the worker has started."""
    call = await deploy(control_plane, connection, function_spec("f", retries=3))
    control_plane.provisioner.obedient = False
    path = await call.start()
    await (await call.worker(path)).fail(output="one", error="ValueError: once")
    second = await call.worker(path, attempt=2)
    assert read(await call.info(path)).status is Status.PENDING
    await second.start()
    await second.update("two")
    running = Invocation(
        status=Status.RUNNING, result="two", error=None, terminated=False, num_failed_attempts=1
    )
    assert read(await call.info(path)) == running
    await call.cancel(path)
    cancelling = await call.until(path, Status.CANCELLING, terminated=False)
    assert (cancelling.result, cancelling.num_failed_attempts) == ("two", 1)
    await second.finish(Outcome.ABORTED)
    second.end()
    assert (await call.until_over(path)).status is Status.CANCELLED


async def test_cl_17_before_the_worker_is_there_it_is_pending(
    control_plane: ControlPlane, connection: Connection
) -> None:
    """CL-17: without an execution, and with one whose worker is being made.

    The worker status PENDING of the rule does not occur here: an execution is created when its slot
    is, and is PROVISIONING from then on. Clients read both alike.
    """
    control_plane.provisioner.may_provision.clear()
    call = await deploy(control_plane, connection, function_spec("f", concurrency=1))
    path = await call.start()
    info = await eventually(lambda: call.info(path), lambda info: info.executions)
    assert info.executions[0].worker_status is WorkerStatus.PROVISIONING
    waiting = await call.start()
    pending = Invocation(
        status=Status.PENDING, result=None, error=None, terminated=False, num_failed_attempts=0
    )
    assert read(info) == pending
    assert (await call.info(waiting)).executions == []
    assert read(await call.info(waiting)) == pending
    control_plane.provisioner.may_provision.set()
    worker = await call.worker(path)
    assert read(await call.info(path)) == pending
    worker.end()


async def test_cl_18_terminated_without_an_execution(
    control_plane: ControlPlane, connection: Connection
) -> None:
    """CL-18: cancelled while it waited for a slot."""
    call = await deploy(control_plane, connection, function_spec("f", concurrency=1))
    await call.worker(await call.start())
    waiting = await call.start()
    await call.cancel(waiting)
    assert await call.until_over(waiting) == Invocation(
        status=Status.CANCELLED, result=None, error=None, terminated=True, num_failed_attempts=0
    )


async def test_cl_18_terminated_with_failures_and_attempts_left(
    control_plane: ControlPlane, connection: Connection
) -> None:
    """CL-18: cancelled in the pause after the second failure."""
    spec = {
        **function_spec("f", retries=3, timeout=600),
        "retry_spec": {"initial_interval_seconds": 1, "backoff_coefficient": 100},
    }
    call = await deploy(control_plane, connection, spec)
    path = await call.start()
    await (await call.worker(path)).fail(output="one", error="ValueError: one")
    await (await call.worker(path, attempt=2)).fail(output="two", error="ValueError: two")
    await eventually(
        lambda: call.info(path),
        lambda info: info.executions[-1].worker_status is WorkerStatus.TERMINATED,
    )
    assert read(await call.info(path)).status is Status.PENDING
    await call.cancel(path)
    assert await call.until_over(path) == Invocation(
        status=Status.CANCELLED,
        result="two",
        error="ValueError: two",
        terminated=True,
        num_failed_attempts=2,
    )


@pytest.mark.parametrize(("retries", "status"), [(0, Status.FAILED), (3, Status.CANCELLED)])
async def test_a_worker_killed_after_a_cancel(
    control_plane: ControlPlane, connection: Connection, retries: int, status: Status
) -> None:
    """No outcome, but started: a failed attempt to clients, and the end decides."""
    call = await deploy(control_plane, connection, function_spec("f", retries=retries))
    path = await call.start()
    await (await call.worker(path)).start()
    await call.cancel(path)
    over = await call.until_over(path)
    assert (over.status, over.num_failed_attempts) == (status, 1)


async def test_a_worker_ended_before_its_start_reads_as_cancelled(
    control_plane: ControlPlane, connection: Connection
) -> None:
    """Also without attempts left: it counts as aborted, not as failed."""
    call = await deploy(control_plane, connection, function_spec("f"))
    path = await call.start()
    await call.worker(path)
    await call.cancel(path)
    over = await call.until_over(path)
    assert (over.status, over.num_failed_attempts) == (Status.CANCELLED, 0)


async def test_a_waiter_past_its_timeout_reads_as_timed_out(
    control_plane: ControlPlane, connection: Connection
) -> None:
    """By the time of its last update alone: there is no execution that could tell."""
    call = await deploy(control_plane, connection, function_spec("f", concurrency=1, timeout=SHORT))
    control_plane.provisioner.obedient = False
    worker = await call.worker(await call.start())
    over = await call.until_over(await call.start())
    assert (over.status, over.num_failed_attempts) == (Status.TIMED_OUT, 0)
    worker.end()

"""The calls that clients make on a function: CL-7 and CL-8."""

import asyncio
import itertools

import pytest

from core.ids import ExecutionId
from tests.support.existing_client.connection import Connection
from tests.support.existing_client.library import (
    Function,
    InvocationCancelledError,
    InvocationFailedError,
    InvocationTimedOutError,
)
from tests.support.existing_client.reading import InvocationInfo, InvocationStatus, Outcome, Status
from tests.support.existing_client.worker import SHORT, Worker, until_ready, worker_of
from tests.support.harness import ControlPlane, eventually, eventually_true, function_spec


class Polled:
    """A deployed function and what its caller has seen."""

    def __init__(self, plane: ControlPlane, connection: Connection) -> None:
        self.plane = plane
        self.connection = connection
        self.seen: list[Status] = []

    async def deploy(self, *, timeout: int = 60, retries: int = 0) -> Function:
        await self.connection.create_project("shop")
        spec = function_spec("f", timeout=timeout, retries=retries)
        await self.connection.create_version("shop", spec)
        await until_ready(self.connection, "shop")
        self.function = await Function.deployed(
            self.connection, "shop", "f", watch=self.seen.append
        )
        return self.function

    async def only_path(self) -> str:
        """Wait until there is an invocation; returns its path."""
        page = await eventually(self.function.list, lambda page: page.invocations)
        (entry,) = page.invocations
        return self.function.path_of(entry.invocation_id)

    async def worker(self) -> Worker:
        return await worker_of(self.plane, self.connection, await self.only_path())

    async def info(self) -> InvocationInfo:
        return await self.connection.get_invocation(await self.only_path())

    async def has_seen(self, status: Status) -> None:
        await eventually_true(lambda: status in self.seen)


@pytest.fixture
def polled(control_plane: ControlPlane, connection: Connection) -> Polled:
    return Polled(control_plane, connection)


async def test_cl_7_a_remote_call_waits_for_its_result(polled: Polled) -> None:
    """CL-7: PENDING, RUNNING, SUCCEEDED; the result does not wait for the worker's end."""
    function = await polled.deploy()
    call = asyncio.create_task(function.call_remote(6, by=7))
    worker = await polled.worker()
    await polled.has_seen(Status.PENDING)
    args, kwargs = await worker.start()
    await polled.has_seen(Status.RUNNING)
    await worker.finish(Outcome.SUCCEEDED, output=str(args[0] * kwargs["by"]))
    assert await call == 42
    assert [status for status, _ in itertools.groupby(polled.seen)] == [
        Status.PENDING,
        Status.RUNNING,
        Status.SUCCEEDED,
    ]
    assert (await polled.info()).invocation_status is InvocationStatus.RUNNING
    worker.end()


async def test_cl_7_a_remote_call_fails_with_the_error(polled: Polled) -> None:
    function = await polled.deploy()
    call = asyncio.create_task(function.call_remote())
    await (await polled.worker()).fail(error="ValueError: no such day")
    with pytest.raises(InvocationFailedError, match=r"^ValueError: no such day$"):
        await call


async def test_cl_7_a_cancelled_remote_call_raises(polled: Polled) -> None:
    function = await polled.deploy()
    polled.plane.provisioner.obedient = False
    call = asyncio.create_task(function.call_remote())
    worker = await polled.worker()
    await worker.start()
    await function.cancel((await polled.info()).invocation_id)
    await polled.has_seen(Status.CANCELLING)
    await worker.finish(Outcome.ABORTED)
    with pytest.raises(InvocationCancelledError):
        await call
    worker.end()


async def test_cl_7_a_remote_call_that_times_out_raises(polled: Polled) -> None:
    function = await polled.deploy(timeout=SHORT)
    polled.plane.provisioner.obedient = False
    call = asyncio.create_task(function.call_remote())
    worker = await polled.worker()
    await worker.start()
    await eventually_true(lambda: worker.compute.terminations > 0)
    await worker.finish(Outcome.ABORTED)
    with pytest.raises(InvocationTimedOutError):
        await call
    worker.end()


@pytest.mark.parametrize("how", ["map", "starmap"])
async def test_cl_8_map_and_starmap_give_five_results(polled: Polled, how: str) -> None:
    """CL-8: one start for each input, results in the order of the inputs, whoever ends first."""
    function = await polled.deploy()
    if how == "map":
        call = asyncio.create_task(function.map(range(5)))
    else:
        call = asyncio.create_task(function.starmap((n, 0) for n in range(5)))
    workers = polled.plane.provisioner.workers
    await eventually_true(lambda: len(workers) == 5)
    ids: list[ExecutionId] = list(workers)
    for execution_id in reversed(ids):
        worker = Worker(polled.connection, workers[execution_id])
        # The worker may start before the control plane has noted that it is there.
        await worker.run(lambda n, *_: n * n)
        worker.end()
    assert await call == [0, 1, 4, 9, 16]
    assert len((await function.list()).invocations) == 5
    assert len(workers) == 5

"""The dev provisioner by itself. The conformance suite is for compute that runs programs."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest

from core.ids import InvocationId, VersionId
from provisioners.base import (
    Exited,
    FunctionToPrepare,
    ResourceSpec,
    Running,
    WorkerRecord,
    WorkerRequest,
)
from provisioners.catalog import load_provisioner_class
from provisioners.conformance import new_execution_id
from provisioners.dev import DevProvisioner

LAG = 5
SMALL = ResourceSpec(virtual_cpus=1, memory_gbs=0.5)
VERSION = VersionId("ver-" + "0" * 32)
INVOCATION = InvocationId("inv-" + "1" * 32)


def new_request() -> WorkerRequest:
    return WorkerRequest(
        project_name="shop",
        version_id=VERSION,
        function_name="order",
        invocation_id=INVOCATION,
        execution_id=new_execution_id(),
        attempt=1,
        docker_image="image:1",
        resource_spec=SMALL,
        prepared_details=None,
        environment={"TOKEN": "the token"},
    )


def as_stored(worker: WorkerRecord) -> WorkerRecord:
    """A record as the registry gives it back."""
    return WorkerRecord(
        execution_id=worker.execution_id,
        state=json.loads(json.dumps(worker.state)),
        details=worker.details,
    )


@pytest.fixture
async def provisioner() -> AsyncIterator[DevProvisioner]:
    provisioner = DevProvisioner(lag=LAG, pause=0)
    yield provisioner
    await provisioner.close()


@pytest.fixture
async def restarted() -> AsyncIterator[DevProvisioner]:
    """The provisioner of the next process."""
    provisioner = DevProvisioner(lag=LAG, pause=0)
    yield provisioner
    await provisioner.close()


async def checks(provisioner: DevProvisioner, worker: WorkerRecord, number: int) -> set[str]:
    return {type(await provisioner.observe(worker)).__name__ for _ in range(number)}


async def waits(call: "asyncio.Task[Exited]") -> bool:
    """Whether a call still waits when everything that was ready has run."""
    for _ in range(10):
        await asyncio.sleep(0)
    return not call.done()


def test_it_is_found_by_its_name() -> None:
    assert load_provisioner_class("dev") is DevProvisioner


async def test_functions_and_workers_have_the_details_of_the_contract(
    provisioner: DevProvisioner,
) -> None:
    prepared = await provisioner.prepare(
        FunctionToPrepare(
            project_name="shop",
            version_id=VERSION,
            function_name="order",
            docker_image="nowhere/no-such-image",
            resource_spec=SMALL,
        )
    )
    assert prepared.details == {"type": "TEST", "identifier": "mocked"}

    request = new_request()
    worker = await provisioner.provision(request)
    assert worker.details == {
        "type": "TEST",
        "identifier": f"shop/{VERSION}/order/{INVOCATION}/{request.execution_id}",
        "logs_identifier": "mocked",
    }
    assert await provisioner.provision(request) == worker
    assert "the token" not in json.dumps(worker.state)


async def test_dev_1_a_worker_ends_lag_checks_after_its_outcome(
    provisioner: DevProvisioner,
) -> None:
    worker = await provisioner.provision(new_request())
    other = await provisioner.provision(new_request())
    assert await checks(provisioner, worker, 1000) == {"Running"}

    for _ in range(2):
        await provisioner.outcome_reported(worker.execution_id)

    assert await checks(provisioner, worker, LAG) == {"Running"}
    await provisioner.outcome_reported(worker.execution_id)
    assert await checks(provisioner, worker, 1000) == {"Exited"}
    assert await checks(provisioner, other, 1000) == {"Running"}


async def test_dev_1_waiting_checks_until_the_end(provisioner: DevProvisioner) -> None:
    worker = await provisioner.provision(new_request())
    # Its log is there at once.
    assert isinstance(await provisioner.wait(worker, timeout=60), Running)
    assert isinstance(await provisioner.wait(worker, timeout=0.01), Running)
    call = asyncio.create_task(provisioner.wait(worker, timeout=60))
    await provisioner.outcome_reported(worker.execution_id)
    assert isinstance(await call, Exited)
    assert isinstance(await provisioner.wait(worker, timeout=60), Exited)


async def test_dev_1_callers_that_wait_together_make_no_more_checks() -> None:
    provisioner = DevProvisioner(lag=LAG, pause=0.05)
    worker = await provisioner.provision(new_request())
    await provisioner.wait(worker, timeout=60)
    calls = [
        asyncio.create_task(provisioner.wait(worker, timeout=60)),
        asyncio.create_task(provisioner.wait(worker, timeout=60)),
        asyncio.create_task(provisioner.terminate(worker.execution_id, worker, grace=0)),
    ]
    began = time.monotonic()
    await provisioner.outcome_reported(worker.execution_id)
    # A timeout neither adds nor loses a check.
    assert isinstance(await provisioner.wait(worker, timeout=0.01), Running)
    assert all(isinstance(seen, Exited) for seen in await asyncio.gather(*calls))
    assert time.monotonic() - began >= LAG * 0.05 * 0.9


async def test_dev_1_a_worker_outlives_the_process_that_made_it(
    provisioner: DevProvisioner, restarted: DevProvisioner
) -> None:
    worker = as_stored(await provisioner.provision(new_request()))
    await provisioner.outcome_reported(worker.execution_id)
    await provisioner.close()

    assert await checks(restarted, worker, 1000) == {"Running"}
    await restarted.outcome_reported(worker.execution_id)
    assert await checks(restarted, worker, LAG) == {"Running"}
    assert await checks(restarted, worker, 10) == {"Exited"}


async def test_dev_1_an_outcome_may_be_known_before_the_worker_is_looked_at(
    restarted: DevProvisioner,
) -> None:
    worker = as_stored(await DevProvisioner().provision(new_request()))
    await restarted.outcome_reported(worker.execution_id)
    assert isinstance(await restarted.wait(worker, timeout=60), Running)
    assert isinstance(await restarted.wait(worker, timeout=60), Exited)


async def test_dev_2_a_signal_changes_nothing(provisioner: DevProvisioner) -> None:
    worker = await provisioner.provision(new_request())
    calls = [
        asyncio.create_task(provisioner.terminate(worker.execution_id, record, grace=0))
        # Without the record, too: it may have been lost on its way to the registry.
        for record in (worker, worker, None)
    ]
    assert [await waits(call) for call in calls] == [True, True, True]
    assert await checks(provisioner, worker, 1000) == {"Running"}

    await provisioner.outcome_reported(worker.execution_id)

    for call in calls:
        assert isinstance(await call, Exited)
    assert await checks(provisioner, worker, 10) == {"Exited"}
    assert isinstance(await provisioner.terminate(worker.execution_id, worker, grace=0), Exited)


async def test_dev_2_a_signal_after_a_restart_changes_nothing(
    provisioner: DevProvisioner, restarted: DevProvisioner
) -> None:
    worker = as_stored(await provisioner.provision(new_request()))
    call = asyncio.create_task(restarted.terminate(worker.execution_id, worker, grace=0))
    assert await waits(call)
    assert await checks(restarted, worker, 1000) == {"Running"}
    await restarted.outcome_reported(worker.execution_id)
    assert isinstance(await call, Exited)


async def test_a_worker_that_never_was_ends_at_once_and_is_not_made_later(
    provisioner: DevProvisioner, restarted: DevProvisioner
) -> None:
    request = new_request()
    ended = await provisioner.terminate(request.execution_id, None, grace=60)
    worker = as_stored(await provisioner.provision(request))

    assert ended == Exited(detail="never started")
    for instance in (provisioner, restarted):
        assert await instance.observe(worker) == ended
        assert await instance.wait(worker, timeout=60) == ended
        assert await instance.terminate(request.execution_id, worker, grace=60) == ended


async def test_a_forgotten_worker_keeps_nobody_waiting(provisioner: DevProvisioner) -> None:
    worker = await provisioner.provision(new_request())
    call = asyncio.create_task(provisioner.terminate(worker.execution_id, worker, grace=0))
    assert await waits(call)
    await provisioner.forget(worker.execution_id)
    assert isinstance(await call, Exited)
    await provisioner.forget(worker.execution_id)
    assert await provisioner.list_workers() == []


async def test_dev_3_the_log_is_complete_from_the_start(
    provisioner: DevProvisioner, restarted: DevProvisioner
) -> None:
    worker = await provisioner.provision(new_request())
    for instance in (provisioner, restarted):
        for ended in (False, True):
            page = await instance.read_logs(worker, offset="", ended=ended)
            assert page.lines == [f"line-{n}" for n in range(100)]
            assert page.complete
            rest = await instance.read_logs(worker, offset=page.next_offset, ended=ended)
            assert rest.lines == []
            assert rest.next_offset == page.next_offset
            assert rest.complete

"""What a Temporal worker has begun when it is told to stop goes on in the next one."""

import asyncio
from datetime import timedelta

import pytest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.heartbeat import heartbeating
from core.ids import VersionId, preparation_workflow_id
from provisioners.base import FunctionToPrepare, PreparedFunction
from registry.database.engine import Registry
from tests.support.harness import (
    STANDARD,
    eventually,
    eventually_true,
    function_spec,
    running_control_plane,
)
from tests.support.scripted_provisioner import ScriptedProvisioner


def version_of(path: str) -> VersionId:
    return VersionId(path.split("/")[4])


async def until_handed_over(client: Client, workflow_id: str) -> None:
    """Wait until each activity has failed and is to be tried again, not only missed."""

    async def failures() -> set[str]:
        described = await client.get_workflow_handle(workflow_id).describe()
        pending = described.raw_description.pending_activities
        return {activity.last_failure.message for activity in pending}

    await eventually(failures, lambda seen: seen == {"this Temporal worker stops"})


class SlowToPrepare(ScriptedProvisioner):
    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.may_prepare.clear()

    async def prepare(self, function: FunctionToPrepare) -> PreparedFunction:
        self.asked.set()
        return await super().prepare(function)


async def test_a_preparation_goes_on(
    registry: Registry, temporal_client: Client, task_queue: str
) -> None:
    slow = SlowToPrepare()
    async with running_control_plane(
        registry, temporal_client, task_queue, provisioner=slow
    ) as plane:
        await plane.deploy(STANDARD)
        path = await plane.invoke("standard")
        await slow.asked.wait()
    await until_handed_over(temporal_client, preparation_workflow_id(version_of(path)))

    async with running_control_plane(registry, temporal_client, task_queue) as plane:
        run = await plane.until_worker_runs(path)
        await run.play("SUCCEEDED")
        assert (await plane.until_terminated(path))["phase"] == "SUCCEEDED"


async def test_the_end_of_a_worker_goes_on(
    registry: Registry, temporal_client: Client, task_queue: str
) -> None:
    provisioner = ScriptedProvisioner()
    provisioner.obedient = False
    async with running_control_plane(
        registry, temporal_client, task_queue, provisioner=provisioner
    ) as plane:
        await plane.deploy(function_spec("stubborn"))
        path = await plane.invoke("stubborn")
        run = await plane.until_worker_runs(path)
        await plane.call("PUT", f"{path}/cancel")
        await eventually_true(lambda: run.worker.terminations == 1)
    await until_handed_over(temporal_client, path.rpartition("/")[2])

    async with running_control_plane(
        registry, temporal_client, task_queue, provisioner=provisioner
    ) as plane:
        await eventually_true(lambda: run.worker.terminations == 2)
        assert (await plane.get(path))["phase"] == "CANCELLING"
        run.worker.end()
        assert (await plane.until_terminated(path))["phase"] == "CANCELLED"


async def test_the_pause_before_it_goes_on_does_not_grow_with_its_attempts() -> None:
    environment = ActivityEnvironment()
    begun = asyncio.Event()

    async def watch() -> None:
        async with heartbeating():
            begun.set()
            await asyncio.Event().wait()

    watching = asyncio.create_task(environment.run(watch))
    await begun.wait()
    environment.worker_shutdown()
    environment.cancel()
    with pytest.raises(ApplicationError) as failure:
        await watching
    assert failure.value.next_retry_delay == timedelta(milliseconds=100)

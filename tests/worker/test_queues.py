"""What takes long must not keep anything else from being done: activities have several queues."""

import pytest
from temporalio.client import Client

from registry.database.engine import Registry
from tests.support.harness import STANDARD, eventually_true, running_control_plane

PLACES = 2


async def test_workers_that_do_not_end_keep_no_place_from_others(
    registry: Registry, temporal_client: Client, task_queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a provisioner hangs, or nobody plays the cancelled workers of `dev` to their end."""
    monkeypatch.setattr("worker.build._PROVISIONER_CALLS", PLACES)
    async with running_control_plane(registry, temporal_client, task_queue) as plane:
        plane.provisioner.obedient = False
        await plane.deploy(STANDARD)
        paths = [await plane.invoke("standard") for _ in range(PLACES + 1)]
        runs = [await plane.until_worker_runs(path) for path in paths]
        for path in paths:
            await plane.call("PUT", f"{path}/cancel")
        await eventually_true(lambda: all(run.worker.terminations == 1 for run in runs))

        another = await plane.invoke("standard")
        await (await plane.until_worker_runs(another)).play("SUCCEEDED")
        assert (await plane.until_terminated(another))["phase"] == "SUCCEEDED"
        assert await plane.sweep(leftover_grace=300) == "nothing to repair"

        assert all(run.worker.terminations == 1 for run in runs)
        for path, run in zip(paths, runs, strict=True):
            run.worker.end()
            assert (await plane.until_terminated(path))["phase"] == "CANCELLED"


async def test_provisioner_calls_that_hang_do_not_keep_the_sweep_from_running(
    registry: Registry, temporal_client: Client, task_queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.build._PROVISIONER_CALLS", PLACES)
    async with running_control_plane(registry, temporal_client, task_queue) as plane:
        await plane.deploy(STANDARD)
        await plane.until(
            plane.version_path, lambda seen: seen["functions"][0]["function_status"] == "READY"
        )
        plane.provisioner.may_provision.clear()
        paths = [await plane.invoke("standard") for _ in range(PLACES + 1)]
        for path in paths:
            await plane.until(path, lambda seen: seen["phase"] == "PROVISIONING")

        assert await plane.sweep() == "nothing to repair"

        plane.provisioner.may_provision.set()
        for path in paths:
            await (await plane.until_worker_runs(path)).play("SUCCEEDED")


async def test_what_older_workflows_ask_for_is_still_served(
    registry: Registry, temporal_client: Client, task_queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They name one queue for all calls of the provisioner, and for the sweep."""
    async with running_control_plane(registry, temporal_client, task_queue) as plane:
        # Workflows import these again for each run; the Temporal worker above has done so.
        for name in ("termination_queue", "sweep_queue"):
            monkeypatch.setattr(f"core.temporal.queues.{name}", lambda provisioner: provisioner)
        await plane.deploy(STANDARD)
        path = await plane.invoke("standard")
        run = await plane.until_worker_runs(path)
        await plane.call("PUT", f"{path}/cancel")

        assert (await plane.until_terminated(path))["phase"] == "CANCELLED"

        assert run.worker.terminations == 1
        assert await plane.sweep(leftover_grace=300) == "nothing to repair"
        queues = [
            event.activity_task_scheduled_event_attributes.task_queue.name
            async for event in temporal_client.get_workflow_handle(
                path.rpartition("/")[2]
            ).fetch_history_events()
            if event.HasField("activity_task_scheduled_event_attributes")
        ]
        assert queues[-1] == queues[0] == f"{task_queue}-provision-scripted"

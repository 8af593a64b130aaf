"""The schedule that sweeps, and the workflows that are not of invocations."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

from sqlalchemy import update
from temporalio.client import ScheduleOverlapPolicy

from core.clock import utc_now
from core.settings import TemporalSettings
from core.temporal.client import connect
from core.temporal.names import sweep_schedule_id
from registry.database.engine import Registry
from registry.database.tables import Function, Project
from tests.support.harness import (
    STANDARD,
    ControlPlane,
    eventually,
    function_spec,
    running_control_plane,
)
from tests.support.scripted_provisioner import ScriptedProvisioner
from tests.support.sweeping import (
    NOTHING,
    insert_row,
    is_ready,
    show,
    write,
)


async def test_a_version_that_nobody_prepares_is_prepared(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    await plane.deploy(STANDARD)
    await plane.until(plane.version_path, is_ready)
    plane.provisioner.may_prepare.clear()
    await write(registry, update(Function).values(preparation_status="PENDING"))

    assert await plane.sweep(grace=0) == "1 preparations of versions started"

    assert await plane.sweep(grace=0) == NOTHING, "its preparation is under way"
    plane.provisioner.may_prepare.set()
    await plane.until(plane.version_path, is_ready)


async def test_a_deletion_that_nobody_carries_out_is_started(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    await plane.deploy(STANDARD)
    await plane.until(plane.version_path, is_ready)
    await write(
        registry, update(Project).values(deletion_requested_at=utc_now() - timedelta(minutes=1))
    )

    assert await plane.sweep() == "1 deletions of projects started"

    async def status() -> int:
        return (await plane.http.get("/projects/shop")).status_code

    await eventually(status, lambda seen: seen == 404)
    assert await plane.sweep() == NOTHING


async def test_a_schedule_sweeps_and_skips_overlaps(
    registry: Registry, temporal_settings: TemporalSettings, task_queue: str
) -> None:
    """Several Temporal workers may make it at once."""
    clients = [await connect(temporal_settings) for _ in range(3)]
    handle = clients[0].get_schedule_handle(sweep_schedule_id(task_queue, "scripted"))
    provisioner = ScriptedProvisioner()
    try:
        async with AsyncExitStack() as stack:
            plane, *_ = await asyncio.gather(
                *(
                    stack.enter_async_context(
                        running_control_plane(
                            registry,
                            client,
                            task_queue,
                            provisioner=provisioner,
                            sweep_interval_seconds=1,
                        )
                    )
                    for client in clients
                )
            )
            await plane.deploy(function_spec("standard", timeout=600))
            path = await insert_row(registry, plane, function="standard")
            await show(registry, [path], created_at=utc_now() - timedelta(minutes=1))
            # Nobody but the schedule sweeps here.
            await (await plane.until_worker_runs(path)).play("SUCCEEDED")
            assert (await plane.until_terminated(path))["phase"] == "SUCCEEDED"

        description = await handle.describe()
        assert description.schedule.policy.overlap is ScheduleOverlapPolicy.SKIP
        # No Temporal worker is left, so one sweep stays open, and the next ones are skipped.
        before = (await handle.describe()).info.num_actions_skipped_overlap
        await eventually(
            handle.describe, lambda seen: seen.info.num_actions_skipped_overlap > before + 1
        )
        assert len((await handle.describe()).info.running_actions) == 1
        await handle.pause(note="a test")
        async with running_control_plane(
            registry, clients[0], task_queue, sweep_interval_seconds=7
        ):
            updated = (await handle.describe()).schedule
        assert updated.state.note == "a test"
        assert [i.every for i in updated.spec.intervals] == [timedelta(seconds=7)]
    finally:
        await handle.delete()

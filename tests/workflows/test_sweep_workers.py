"""The sweep and workers that belong to no open execution."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, update
from temporalio.client import (
    Client,
    WorkflowFailureError,
)
from temporalio.testing import ActivityEnvironment

from activities.sweep import SweepActivities
from core.clock import utc_now
from core.ids import ExecutionId, InvocationId, VersionId
from core.messages import SweepRequest
from core.states import WorkerStatus
from core.temporal.states import WorkflowStates
from provisioners.base import ProvisionerError, ResourceSpec, WorkerRequest
from provisioners.process.config import ProcessProvisionerConfig
from provisioners.process.provisioner import ProcessProvisioner
from registry.database.engine import Registry
from registry.database.tables import Execution, Invocation
from tests.support.harness import (
    RETRYABLE,
    STANDARD,
    ControlPlane,
    eventually,
    parts_for,
    running_control_plane,
)
from tests.support.scripted_provisioner import ScriptedProvisioner, ScriptedWorker
from tests.support.sweeping import (
    NOTHING,
    id_of,
    insert_row,
    sweep_until,
    until_closed,
    write,
)


async def test_the_worker_and_the_workflow_of_a_deleted_invocation_end(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    await plane.deploy(RETRYABLE)
    path = await plane.invoke("retryable")
    run = await plane.until_worker_runs(path)
    # Output that finds no execution to belong to must not keep the watch going for ever.
    run.worker.lines.append("hello")
    await write(registry, delete(Invocation).where(Invocation.id == id_of(path)))

    await sweep_until(plane, "1 leftover workers ended")

    assert run.worker.terminations == 1
    await until_closed(plane, id_of(path))
    await eventually(plane.sweep, lambda said: said == NOTHING)


async def test_the_worker_of_an_execution_that_ended_is_ended_after_a_while(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    run = await plane.until_worker_runs(path)
    await write(
        registry,
        update(Execution).values(
            worker_status=WorkerStatus.TERMINATED,
            terminated_at=utc_now() - timedelta(seconds=20),
        ),
    )
    assert await plane.sweep(leftover_grace=3600) == NOTHING
    assert run.worker.terminations == 0
    plane.provisioner.terminate_errors.append(RuntimeError("not now"))
    assert await plane.sweep() == "1 leftover workers not ended yet"
    assert await plane.sweep() == "1 leftover workers ended"
    assert run.worker.terminations == 1


async def test_a_leftover_process_is_ended_and_its_folder_deleted(
    registry: Registry, temporal_client: Client, task_queue: str, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "main.py").write_text("")
    (project / "control-plane.toml").write_text('command = ["sleep", "3600"]\n')
    provisioner = ProcessProvisioner(ProcessProvisionerConfig(state_folder=tmp_path / "state"))
    async with running_control_plane(
        registry, temporal_client, task_queue, provisioner=provisioner
    ) as plane:
        await plane.deploy(STANDARD, image=project.as_uri())
        kept, deleted = [await plane.invoke("standard") for _ in range(2)]
        for path in (kept, deleted):
            await plane.until_worker_runs(path)
        await write(registry, delete(Invocation).where(Invocation.id == id_of(deleted)))
        (kept_execution,) = (await plane.get(kept))["executions"]

        await sweep_until(plane, "1 leftover workers ended")

        assert await provisioner.list_workers() == [kept_execution["execution_id"]]
        await until_closed(plane, id_of(deleted))
        await plane.call("PUT", f"{kept}/cancel")
        assert (await plane.until_terminated(kept))["phase"] == "CANCELLED"
        assert await provisioner.list_workers() == []


async def test_a_sweep_that_cannot_see_the_workers_does_the_rest_and_says_so(
    control_plane: ControlPlane, registry: Registry
) -> None:
    plane = control_plane
    await plane.deploy(STANDARD)
    path = await insert_row(registry, plane, function="standard")
    plane.provisioner.list_errors += [ProvisionerError("not at home")] * 3

    with pytest.raises(WorkflowFailureError) as failure:
        await plane.sweep(grace=0)

    assert str(failure.value.cause) == (
        "SweepFailed: could not end leftover workers: not at home; "
        "1 invocations started that had no workflow"
    )
    await (await plane.until_worker_runs(path)).play("SUCCEEDED")
    await plane.until_terminated(path)


def request_for(execution_id: ExecutionId) -> WorkerRequest:
    return WorkerRequest(
        project_name="shop",
        version_id=VersionId("ver-none"),
        function_name="standard",
        invocation_id=InvocationId("inv-none"),
        execution_id=execution_id,
        attempt=1,
        docker_image="image:1",
        resource_spec=ResourceSpec(virtual_cpus=0.5, memory_gbs=0.25, max_concurrency=1),
        prepared_details=None,
        environment={},
    )


async def test_workers_that_cannot_be_ended_take_nobodys_turn(
    registry: Registry, temporal_client: Client, task_queue: str
) -> None:
    """One sweep ends some workers at most: those that were tried in vain come last."""
    provisioner = ScriptedProvisioner()
    for number in range(3):
        execution_id = ExecutionId(f"exe-{number:032x}")
        provisioner.workers[execution_id] = ScriptedWorker(request_for(execution_id))
    parts = parts_for(registry, temporal_client, task_queue)
    steps = SweepActivities(
        registry,
        parts.dispatcher,
        WorkflowStates(temporal_client, task_queue=task_queue),
        provisioner,
        grace_seconds=1,
        leftovers_limit=1,
    )
    first, second, _ = provisioner.workers
    provisioner.stubborn = {first, second}
    request = SweepRequest(provisioner="scripted", provisioner_queue="none", grace_seconds=0)

    async def sweep() -> dict[str, int]:
        repaired = await ActivityEnvironment().run(steps.end_leftover_workers, request)
        return repaired.counts

    left = "repairs left for the next sweep"
    for _ in range(2):
        assert await sweep() == {"leftover workers not ended yet": 1, left: 2}
    assert await sweep() == {"leftover workers ended": 1, left: 2}
    provisioner.stubborn.clear()
    assert await sweep() == {"leftover workers ended": 1, left: 1}
    assert await sweep() == {"leftover workers ended": 1}
    assert await provisioner.list_workers() == []

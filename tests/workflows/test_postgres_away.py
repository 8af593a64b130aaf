"""A Postgres that hangs, and one that is stopped, while invocations run: all goes on later."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from temporalio.client import Client

from registry.database.engine import Registry
from registry.database.migrate import upgrade
from standalone.servers.postgres import EmbeddedPostgres
from tests.support.folders import server_folder
from tests.support.harness import LIMITED, ControlPlane, eventually, running_control_plane
from tests.support.stack.processes import children_of


@pytest.fixture
def postgres() -> Iterator[EmbeddedPostgres]:
    """A server of this test's own."""
    with (
        server_folder("away") as folder,
        EmbeddedPostgres(folder / "postgres", durable=False) as server,
    ):
        yield server


@pytest.fixture
async def own_registry(postgres: EmbeddedPostgres) -> AsyncIterator[Registry]:
    postgres.create_database("control_plane")
    settings = postgres.registry_settings("control_plane")
    upgrade(settings)
    registry = Registry(settings)
    yield registry
    await registry.close()


@contextmanager
def hanging(postgres: EmbeddedPostgres) -> Iterator[None]:
    """The postmaster and all its backends are stopped, as with a machine that hangs."""
    assert postgres.pid is not None
    os.kill(postgres.pid, signal.SIGSTOP)
    processes = [postgres.pid, *children_of(postgres.pid)]
    for pid in processes[1:]:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.timeout(300)
async def test_all_goes_on_after_postgres_has_hung_and_was_stopped(
    postgres: EmbeddedPostgres, own_registry: Registry, temporal_client: Client, task_queue: str
) -> None:
    """Neither API nor Temporal worker is started again."""
    async with running_control_plane(own_registry, temporal_client, task_queue) as plane:
        await plane.deploy(LIMITED)
        paths = [await plane.invoke("limited") for _ in range(3)]
        for path, trouble in zip(paths[:2], ("hangs", "is stopped"), strict=True):
            run = await plane.until_worker_runs(path)
            await run.start()
            await run.finish("SUCCEEDED")
            if trouble == "hangs":
                with hanging(postgres):
                    # The Temporal worker is to record an end that it cannot record.
                    run.worker.end()
                    await assert_away(plane)
            else:
                await asyncio.to_thread(postgres.stop)
                run.worker.end()
                await assert_away(plane)
                await asyncio.to_thread(postgres.start)
            await eventually(lambda: status_of(plane, paths[0]), lambda status: status == 200)
            await plane.until_terminated(path, seconds=60)
        # A request that waits is told of the end: somebody listens to Postgres again.
        run = await plane.until_worker_runs(paths[2])
        await run.play("SUCCEEDED")
        async with asyncio.timeout(50):
            waited = await plane.get(f"{paths[2]}?wait=60")
        assert waited["phase"] == "SUCCEEDED"


async def status_of(plane: ControlPlane, path: str) -> int:
    return (await plane.http.get(path)).status_code


async def assert_away(plane: ControlPlane) -> None:
    for _ in range(2):
        answer = await plane.http.get("/projects")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")

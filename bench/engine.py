"""The baseline: a bare workflow with as many steps as an invocation has, and nothing of ours.

As a module it is the Temporal worker that runs it, in a process of its own.
"""

import argparse
import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from pydantic import SecretStr
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

from bench.programs import module, say, until_told_to_stop

with workflow.unsafe.imports_passed_through():
    from core.temporal.client import EmbeddedTemporalSettings, connect_config


@activity.defn
async def nothing(value: str) -> str:
    """Give back what comes."""
    return value


@workflow.defn
class BareWorkflow:
    """Two empty local activities and two empty activities."""

    @workflow.run
    async def run(self, value: str) -> str:
        """Do nothing, in as many steps as an invocation."""
        limit = timedelta(seconds=60)
        await workflow.execute_local_activity(nothing, value, start_to_close_timeout=limit)
        await workflow.execute_activity(nothing, value, start_to_close_timeout=limit)
        await workflow.execute_activity(nothing, value, start_to_close_timeout=limit)
        return await workflow.execute_local_activity(nothing, value, start_to_close_timeout=limit)


class Engine:
    """Bare workflows of one Temporal server, as a client runs them."""

    def __init__(self, client: Client, *, queue: str, pid: int) -> None:
        self._client = client
        self._queue = queue
        self.pid = pid
        """The process of the Temporal worker."""

    async def start(self) -> tuple[str, float]:
        """Start one; returns its id and the seconds that the call took."""
        began = time.perf_counter()
        handle = await self._client.start_workflow(
            BareWorkflow.run, "x", id=uuid.uuid4().hex, task_queue=self._queue
        )
        return handle.id, time.perf_counter() - began

    async def finished(self, workflow_id: str) -> None:
        """Wait for the end of one."""
        await self._client.get_workflow_handle(workflow_id).result()

    async def run_many(self, count: int, *, at_once: int) -> list[float]:
        """Start so many, and wait until all have ended; returns how long each start took."""
        gate = asyncio.Semaphore(at_once)
        started: list[tuple[str, float]] = []

        async def one() -> None:
            async with gate:
                started.append(await self.start())

        await asyncio.gather(*(one() for _ in range(count)))
        # The last ones end last: few of these calls have to wait for long.
        for workflow_id, _ in reversed(started):
            await self.finished(workflow_id)
        return [seconds for _, seconds in started]


@asynccontextmanager
async def engine(temporal: EmbeddedTemporalSettings) -> AsyncIterator[Engine]:
    """Run a Temporal worker for bare workflows during the block."""
    queue = f"bench-{uuid.uuid4().hex}"
    address, secret = temporal.temporal_address, temporal.temporal_secret.get_secret_value()
    arguments = [f"--address={address}", f"--secret={secret}", f"--queue={queue}"]
    async with module("bench.engine", arguments) as (pid, _):
        yield Engine(await Client.connect(**connect_config(temporal)), queue=queue, pid=pid)


async def _serve(temporal: EmbeddedTemporalSettings, queue: str) -> None:
    async with Worker(
        await Client.connect(**connect_config(temporal)),
        task_queue=queue,
        workflows=[BareWorkflow],
        activities=[nothing],
        max_concurrent_activities=1100,
    ):
        say({"queue": queue})
        await until_told_to_stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--secret", required=True)
    parser.add_argument("--queue", required=True)
    arguments = parser.parse_args()
    settings = EmbeddedTemporalSettings(
        temporal_address=arguments.address, temporal_secret=SecretStr(arguments.secret)
    )
    asyncio.run(_serve(settings, arguments.queue))

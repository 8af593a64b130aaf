"""The baseline: a bare workflow with as many steps as an invocation has, and nothing of ours."""

import asyncio
import uuid
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker


@activity.defn
async def nothing(value: str) -> str:
    return value


@workflow.defn
class BareWorkflow:
    """Two empty local activities and two empty activities."""

    @workflow.run
    async def run(self, value: str) -> str:
        limit = timedelta(seconds=60)
        await workflow.execute_local_activity(nothing, value, start_to_close_timeout=limit)
        await workflow.execute_activity(nothing, value, start_to_close_timeout=limit)
        await workflow.execute_activity(nothing, value, start_to_close_timeout=limit)
        return await workflow.execute_local_activity(nothing, value, start_to_close_timeout=limit)


async def bare_completions(client: Client, *, count: int, at_once: int) -> float:
    """Run `count` bare workflows; returns the seconds that took."""
    queue = f"bench-{uuid.uuid4().hex}"
    gate = asyncio.Semaphore(at_once)

    async def one() -> None:
        async with gate:
            await client.execute_workflow(
                BareWorkflow.run, "x", id=uuid.uuid4().hex, task_queue=queue
            )

    async with Worker(
        client,
        task_queue=queue,
        workflows=[BareWorkflow],
        activities=[nothing],
        max_concurrent_activities=1100,
    ):
        await one()
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(one() for _ in range(count)))
        return asyncio.get_running_loop().time() - began

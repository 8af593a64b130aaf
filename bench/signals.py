"""The baseline: two workflows of nothing that send each other a signal and wait for the answer."""

import asyncio
import uuid
from functools import partial

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker


@workflow.defn
class Bounce:
    """Sends a signal to another one like it and waits for the answer, so many times."""

    def __init__(self) -> None:
        self._received = 0

    @workflow.signal
    def ball(self) -> None:
        """Come to the other side."""
        self._received += 1

    def _has_received(self, number: int) -> bool:
        return self._received >= number

    @workflow.run
    async def run(self, partner: str, serves: bool, rounds: int) -> None:
        """Play; the one that does not serve only answers."""
        other = workflow.get_external_workflow_handle(partner)
        for number in range(1, rounds + 1):
            if serves:
                await other.signal("ball")
            await workflow.wait_condition(partial(self._has_received, number))
            if not serves:
                await other.signal("ball")


async def signal_round_trip(client: Client, *, rounds: int) -> float:
    """Give the mean seconds of a signal from one workflow to another and back."""
    queue = f"bench-{uuid.uuid4().hex}"
    async with Worker(client, task_queue=queue, workflows=[Bounce]):
        left, right = uuid.uuid4().hex, uuid.uuid4().hex
        answering = await client.start_workflow(
            "Bounce", args=[left, False, rounds], id=right, task_queue=queue
        )
        began = asyncio.get_running_loop().time()
        await client.execute_workflow(
            "Bounce", args=[right, True, rounds], id=left, task_queue=queue
        )
        took = asyncio.get_running_loop().time() - began
        await answering.result()
    return took / rounds

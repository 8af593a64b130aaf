"""Heartbeats: how Temporal learns within seconds that a Temporal worker has died."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temporalio import activity


@asynccontextmanager
async def heartbeating() -> AsyncIterator[None]:
    """Send heartbeats during the block, three in each heartbeat timeout.

    They are sent by a task of their own, so that a step that takes long (a slow provisioner, a
    registry that is away) is not mistaken for a dead process.
    """
    timeout = activity.info().heartbeat_timeout
    if timeout is None:
        yield
        return
    task = asyncio.create_task(_beat(timeout.total_seconds() / 3))
    try:
        yield
    finally:
        task.cancel()


async def _beat(interval: float) -> None:
    # The start counts as the first heartbeat: most activities end before a second one is due, and
    # each costs the server a write.
    while True:
        await asyncio.sleep(interval)
        activity.heartbeat()

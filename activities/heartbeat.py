"""How an activity goes on elsewhere when its Temporal worker dies or stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

_HANDOVER: Final = timedelta(milliseconds=100)
"""Pause before the next Temporal worker goes on. The retry policy's pauses grow with each attempt,
and so would be long for what has already outlived some restarts."""


@asynccontextmanager
async def heartbeating() -> AsyncIterator[None]:
    """Send heartbeats during the block, two in each heartbeat timeout.

    They are sent by a task of their own, so that a step that takes long (a slow provisioner, a
    registry that is away) is not mistaken for a dead process. If the Temporal worker stops in the
    meantime, the activity fails, and the next Temporal worker runs it again.
    """
    timeout = activity.info().heartbeat_timeout
    task = None if timeout is None else asyncio.create_task(_beat(timeout.total_seconds() / 2))
    try:
        yield
    except asyncio.CancelledError:
        if not activity.is_worker_shutdown():
            raise
        # The SDK would report a cancellation. Temporal, which has not asked for any, would not take
        # it, and run the activity again only after its heartbeat timeout.
        raise ApplicationError(
            "this Temporal worker stops",
            next_retry_delay=_HANDOVER,
            category=ApplicationErrorCategory.BENIGN,
        ) from None
    finally:
        if task is not None:
            task.cancel()


async def _beat(interval: float) -> None:
    # The start counts as the first heartbeat: most activities end before a second one is due, and
    # each costs the server a write.
    while True:
        await asyncio.sleep(interval)
        activity.heartbeat()

"""Calls to Temporal that a request makes after its commit, and does not wait for very long."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import structlog

logger = structlog.get_logger(__name__)

PATIENCE_SECONDS: Final = 1.0
"""How much later than its commit a request is answered at most, if Temporal is slow or away."""


class Errands:
    """Sees calls through, also after their request was answered. Make one per process.

    What the process does not see through when it stops is made up for by the sweep.
    """

    def __init__(self) -> None:
        # The event loop itself would let go of a task that nobody holds.
        self._under_way: set[asyncio.Task[object]] = set()

    async def send(self, call: Coroutine[Any, Any, object]) -> None:
        """Make a call, and wait for its end for `PATIENCE_SECONDS`; then it goes on alone.

        As a rule the end is waited for, so that a Temporal under load slows its callers down.
        """
        task = asyncio.create_task(call)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.wait([task], timeout=PATIENCE_SECONDS)
        if task.done():
            task.result()
            return
        logger.warning("temporal_is_slow", under_way=len(self._under_way))
        task.add_done_callback(_log_failure)


def _log_failure(task: asyncio.Task[object]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("errand_failed", exc_info=error)

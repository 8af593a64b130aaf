"""Calls to Temporal that a request makes after its commit, and does not wait for very long."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import structlog

logger = structlog.get_logger(__name__)

PATIENCE_SECONDS: Final = 1.0
"""How much later than its commit a request is answered at most, if Temporal is slow or away."""
_LONGEST_SECONDS: Final = 60.0
"""A cancel of many descendants is many calls; each of them may wait for a Temporal that hangs."""


class Errands:
    """Sees calls through, also after their request was answered. Make one per process.

    The row is committed: a call that fails is logged, and made up for by the sweep. So is what the
    process has not seen through when it stops.
    """

    def __init__(self) -> None:
        # The event loop itself would let go of a task that nobody holds.
        self._under_way: set[asyncio.Task[object]] = set()

    async def send(self, call: Coroutine[Any, Any, object]) -> None:
        """Make a call, and wait for its end for `PATIENCE_SECONDS`; then it goes on alone.

        As a rule the end is waited for, so that a Temporal under load slows its callers down.
        """
        task = asyncio.create_task(asyncio.wait_for(call, _LONGEST_SECONDS))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        task.add_done_callback(_log_failure)
        await asyncio.wait([task], timeout=PATIENCE_SECONDS)
        if not task.done():
            logger.warning("temporal_is_slow", under_way=len(self._under_way))


def _log_failure(task: asyncio.Task[object]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("errand_failed", exc_info=error)

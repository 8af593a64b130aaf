"""Requests to Temporal that follow a commit, and that nothing waits for very long."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import structlog

logger = structlog.get_logger(__name__)

MAX_DELAY_SECONDS: Final = 1.0
"""How much later than its commit a request is answered at most, if Temporal is slow or away."""
_LONGEST_SECONDS: Final = 60.0
"""A cancel of many descendants is many requests; each of them may wait for a Temporal that hangs.
"""


class AfterCommit:
    """Sees requests to Temporal through, also after the answer was sent. Make one per process.

    The row is committed: a request to Temporal that fails is logged, and the sweep makes up for it.
    The sweep also makes up for what the process has not seen through when it stops.
    """

    def __init__(self) -> None:
        # The event loop itself would let go of a task that nothing holds.
        self._under_way: set[asyncio.Task[object]] = set()

    async def send(self, request: Coroutine[Any, Any, object]) -> None:
        """Send a request, and wait for its end for `MAX_DELAY_SECONDS`; then it goes on alone.

        As a rule the end is waited for, so that a Temporal under load slows the API's clients down.
        """
        task = asyncio.create_task(asyncio.wait_for(request, _LONGEST_SECONDS))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        task.add_done_callback(_log_failure)
        await asyncio.wait([task], timeout=MAX_DELAY_SECONDS)
        if not task.done():
            logger.warning("temporal_is_slow", under_way=len(self._under_way))


def _log_failure(task: asyncio.Task[object]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("errand_failed", exc_info=error)

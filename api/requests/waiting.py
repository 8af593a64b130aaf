"""Requests that wait for a change, and hold no database connection while they do."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Final

from fastapi import Query, Request
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from api.requests.context import Context
from core.states import InvocationStatus
from registry.queries.invocations import InvocationDetails

MAX_WAIT_SECONDS: Final = 60

WaitSeconds = Annotated[
    float | None,
    Query(
        ge=0,
        le=MAX_WAIT_SECONDS,
        allow_inf_nan=False,
        description=(
            "Seconds to wait at most, if the invocation is not TERMINATED yet; the answer comes as "
            "soon as it is. Without it, or with 0, the answer comes at once"
        ),
    ),
]

_LATEST_READ_SECONDS: Final = 10
"""How long after the time for its answer a request may still wait for its read."""


@asynccontextmanager
async def read_permit(permits: asyncio.Semaphore, *, until: float) -> AsyncIterator[None]:
    """Hold the permit for one read, for the block.

    Args:
        permits: as many as there may be reads at once.
        until: the event loop's time at which the request should be answered.

    Raises:
        PoolTimeoutError: none was free soon enough after that.
    """
    try:
        async with asyncio.timeout_at(until + _LATEST_READ_SECONDS):
            await permits.acquire()
    except TimeoutError:
        raise PoolTimeoutError("too many requests that wait want to read") from None
    try:
        yield
    finally:
        permits.release()


async def read_when_ended(
    read: Callable[[], Awaitable[InvocationDetails]],
    context: Context,
    *,
    invocation_id: str,
    request: Request,
    wait: float | None,
) -> InvocationDetails:
    """Read an invocation as soon as it is TERMINATED, and at the latest after `wait` seconds.

    Args:
        read: reads it, and judges each time whether the request's sender may.
        context: what the route has.
        invocation_id: the one that is read.
        request: the one that waits.
        wait: seconds; None or 0 to read it at once.
    """
    if not wait:
        return await read()
    until = asyncio.get_running_loop().time() + wait
    with context.changes.watch(invocation_id) as changed:
        async with read_permit(context.reads_of_waiters, until=until):
            found = await read()
        is_time_left = True
        while (
            is_time_left
            and found.invocation.status == InvocationStatus.RUNNING
            and not context.changes.closing
        ):
            is_time_left = await wait_for_change(changed, request, until=until)
            changed.clear()
            async with read_permit(context.reads_of_waiters, until=until):
                found = await read()
    return found


async def wait_for_change(changed: asyncio.Event, request: Request, *, until: float) -> bool:
    """Wait until an event is set; returns whether it was in time.

    It ends early if the client hangs up.

    Args:
        changed: the event.
        request: the one that waits. Nothing else may read its body.
        until: the event loop's time at which it has waited long enough.
    """
    left = max(0.0, until - asyncio.get_running_loop().time())
    hearing = asyncio.create_task(changed.wait())
    hanging_up = asyncio.create_task(_client_hangs_up(request))
    try:
        await asyncio.wait([hearing, hanging_up], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if hanging_up.done():
            # A body that the route does not read may be too large.
            hanging_up.result()
        return changed.is_set()
    finally:
        hearing.cancel()
        hanging_up.cancel()


async def _client_hangs_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""What `control-plane run` does while its call runs: shows it, and cancels it if it must."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass

from control_plane._console.output import progress_text
from control_plane._http.async_client import AsyncClient
from control_plane._http.follower import Follower, Line, Output
from control_plane.errors import ConflictError
from control_plane.models import InvocationInfo, InvocationPath

from standalone.errors import StandaloneError
from standalone.run.display import Display
from standalone.stack import Stack


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended."""

    invocation: InvocationInfo | None
    """None if it was interrupted before there was a call."""
    timed_out: bool = False
    """Whether it took longer than the caller would wait."""


async def follow(
    client: AsyncClient,
    path: InvocationPath,
    *,
    display: Display,
    stop: asyncio.Event,
    timeout: float | None,
    stack: Stack | None,
) -> RunResult:
    """Show what happens to a call until it has ended.

    Args:
        client: the server.
        path: the call.
        display: where to show it.
        stop: cancels the call when it is set.
        timeout: seconds after which it is cancelled.
        stack: what it runs on, if that may die with this process.

    Raises:
        ControlPlaneError: the server does not answer.
        StandaloneError: a part of the stack has ended.
    """
    until = None if timeout is None else time.monotonic() + timeout
    showing = asyncio.create_task(_show(client, path, display))
    stopping = asyncio.create_task(stop.wait())
    dying = None if stack is None else asyncio.create_task(stack.part_died())
    tasks = [task for task in (showing, stopping, dying) if task is not None]
    timed_out = False
    try:
        waiting_for: set[asyncio.Task[object]] = set(tasks)
        while not showing.done():
            left = None if until is None else max(0.0, until - time.monotonic())
            done, waiting_for = await asyncio.wait(
                waiting_for, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            if dying is not None and dying in done:
                raise StandaloneError(dying.result())
            if stopping in done:
                display.say(
                    "Cancelling; the function may clean up (once more Ctrl-C to end at once) ..."
                )
            elif not done:
                display.say(f"Not ended within {timeout:g} s: cancelling ...")
                timed_out = True
            else:
                continue
            until = None
            with suppress(ConflictError):
                await client.cancel_invocation(path)
        return RunResult(invocation=showing.result(), timed_out=timed_out)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _show(client: AsyncClient, path: InvocationPath, display: Display) -> InvocationInfo:
    info: InvocationInfo | None = None
    attempts = 1
    follower = Follower(client.exchange, path, output=Output())
    async for event in client.iterate(follower.events()):
        if isinstance(event, Line):
            display.log(event.text)
            continue
        info = event
        if len(info.executions) > attempts:
            attempts = len(info.executions)
            display.say(f"Attempt {attempts}; the one before: {info.executions[-2].cause}")
        if info.progress is not None:
            display.status(progress_text(info.progress), matters=True)
        elif not info.has_ended:
            waits = info.phase == "QUEUED" and info.phase_detail is not None
            display.status(_phase_text(info), matters=waits)
    assert info is not None  # noqa: S101 - the last state is always given
    return info


def _phase_text(info: InvocationInfo) -> str:
    return f"{info.phase}: {info.phase_detail}" if info.phase_detail else info.phase

"""What `control-plane run` does while its call runs: shows it, and cancels it if it must."""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from control_plane._call.invocation import Invocation
from control_plane._console.output import progress_text
from control_plane.models import InvocationInfo

from standalone.errors import StandaloneError
from standalone.run.display import Display
from standalone.stack import Stack

_LOG_SECONDS: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended."""

    invocation: InvocationInfo | None
    """None if it was interrupted before there was a call."""
    timed_out: bool = False
    """Whether it took longer than the caller would wait."""


async def follow(
    invocation: Invocation[object],
    display: Display,
    *,
    stop: asyncio.Event,
    timeout: float | None,
    stack: Stack | None,
) -> RunResult:
    """Show what happens to a call until it has ended.

    Args:
        invocation: the call.
        display: where to show it.
        stop: cancels the call when it is set.
        timeout: seconds after which it is cancelled.
        stack: what it runs on, if that may die with this process.

    Raises:
        ControlPlaneError: the server does not answer.
        StandaloneError: a part of the stack has ended.
    """
    until = None if timeout is None else time.monotonic() + timeout
    watching = asyncio.create_task(_watch(invocation, display))
    printing = asyncio.create_task(_print_logs(invocation, display))
    stopping = asyncio.create_task(stop.wait())
    dying = None if stack is None else asyncio.create_task(stack.part_died())
    tasks = [task for task in (watching, printing, stopping, dying) if task is not None]
    timed_out = False
    try:
        waiting_for: set[asyncio.Task[object]] = set(tasks)
        while not watching.done():
            left = None if until is None else max(0.0, until - time.monotonic())
            done, waiting_for = await asyncio.wait(
                waiting_for, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            if dying is not None and dying in done:
                raise StandaloneError(dying.result())
            if printing in done:
                printing.result()
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
            await invocation.cancel_async()
        ended = RunResult(invocation=watching.result(), timed_out=timed_out)
        # What was written before the end is there; a log without an end must not keep us.
        await asyncio.wait([printing], timeout=_LOG_SECONDS)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return ended


async def _watch(invocation: Invocation[object], display: Display) -> InvocationInfo:
    info: InvocationInfo | None = None
    attempts = 1
    async for info in invocation.watch_async():
        if len(info.executions) > attempts:
            attempts = len(info.executions)
            display.say(f"Attempt {attempts}; the one before: {info.executions[-2].cause}")
        if info.progress is not None:
            display.status(progress_text(info.progress), matters=True)
        elif not info.has_ended:
            waits = info.phase == "QUEUED" and info.phase_detail is not None
            display.status(_phase_text(info), matters=waits)
    assert info is not None  # noqa: S101 - the first look is always given
    return info


async def _print_logs(invocation: Invocation[object], display: Display) -> None:
    async for line in invocation.logs_async(follow=True):
        display.log(line)


def _phase_text(info: InvocationInfo) -> str:
    return f"{info.phase}: {info.phase_detail}" if info.phase_detail else info.phase

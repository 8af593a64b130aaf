"""Runs async functions and async generators of the user's."""

import asyncio
from contextlib import suppress
from types import AsyncGeneratorType

from control_plane.runner.updates import Updates
from control_plane.runner.values import encode_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from typing import Any

    from control_plane.runner.report import Report
    from control_plane.runner.sigterm import Sigterm

_CLEANUP_SECONDS = 5.0


def run(
    result: "Awaitable[Any] | AsyncGeneratorType[Any, Any]",
    *,
    report: "Report",
    sigterm: "Sigterm",
) -> str | None:
    """Run what an async function has returned, to its end.

    Returns:
        The JSON text of the return value; None for an async generator, whose values are reported.

    Raises:
        NoMoreReports: an update could not be reported; the function was stopped.
        BaseException: what has left the function.
    """
    # The runner of asyncio is never closed: closing waits for the threads of the user's code, and
    # the process is about to end.
    return asyncio.Runner().run(_AsyncCall(report, sigterm).run(result))


class _AsyncCall:
    """Drives the user's code in one task and turns the SIGTERM into an exception inside it."""

    def __init__(self, report: "Report", sigterm: "Sigterm") -> None:
        self._report = report
        self._sigterm = sigterm
        self._in_user_code = False
        self._task: asyncio.Task[Any] | None = None

    async def run(self, result: "Awaitable[Any] | AsyncGeneratorType[Any, Any]") -> str | None:
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._sigterm.wake = lambda: _call_soon(loop, self._interrupt)
        try:
            if isinstance(result, AsyncGeneratorType):
                await self._report_values(result)
                return None
            value = await self._drive(result)
            return encode_output(value, what="The return value")
        finally:
            self._sigterm.close()
            await self._end_other_tasks()

    async def _report_values(self, generator: "AsyncGeneratorType[Any, Any]") -> None:
        count = 0
        updates = Updates(self._report)
        try:
            while True:
                try:
                    if self._sigterm.pending:
                        value = await self._drive(generator.athrow(self._sigterm.take()))
                    else:
                        value = await self._drive(anext(generator))
                except StopAsyncIteration:
                    return
                count += 1
                text = encode_output(value, what=f"The yielded value number {count}")
                if updates.waits:
                    # In a thread, so that other tasks of the user's go on while the API is away.
                    await asyncio.to_thread(updates.put, text)
                else:
                    updates.put(text)
        finally:
            with suppress(BaseException):
                await self._drive(generator.aclose())
            await asyncio.to_thread(updates.flush)

    async def _drive(self, awaitable: "Awaitable[object]") -> object:
        self._in_user_code = True
        try:
            return await _Interruptible(awaitable, self._sigterm)
        finally:
            self._in_user_code = False

    def _interrupt(self) -> None:
        # Otherwise the next step of the function sees the pending signal by itself.
        if self._in_user_code and self._sigterm.pending and self._task is not None:
            self._task.cancel()

    async def _end_other_tasks(self) -> None:
        others = asyncio.all_tasks() - {self._task}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=_CLEANUP_SECONDS)


class _Interruptible:
    """Awaits something of the user's, with the SIGTERM's exception in place of a cancellation."""

    def __init__(self, awaitable: "Awaitable[Any]", sigterm: "Sigterm") -> None:
        self._awaitable = awaitable
        self._sigterm = sigterm

    def __await__(self) -> "Generator[Any, None, Any]":
        steps: Generator[Any, None, Any] = self._awaitable.__await__()
        error: BaseException | None = self._sigterm.take() if self._sigterm.pending else None
        while True:
            try:
                awaited = steps.send(None) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            error = None
            try:
                yield awaited
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as failure:  # noqa: BLE001 - handed on to where it belongs
                error = failure
            if self._sigterm.pending and (
                error is None or isinstance(error, asyncio.CancelledError)
            ):
                # A cancellation is only the way to wake the task, and what is awaited may have
                # swallowed it.
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    task.uncancel()
                error = self._sigterm.take()


def _call_soon(loop: asyncio.AbstractEventLoop, callback: "Callable[[], None]") -> None:
    with suppress(RuntimeError):  # the loop is closed: the function has ended
        loop.call_soon_threadsafe(callback)

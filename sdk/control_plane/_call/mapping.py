"""Calling a function once for each of many inputs, a bounded number of calls at a time."""

import asyncio
import concurrent.futures
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from control_plane._call.connection import Connection
from control_plane._call.invocation import result_of
from control_plane._http.async_client import AsyncClient
from control_plane._http.client import BaseClient
from control_plane._http.exchange import Steps, resolve_version
from control_plane.errors import ConflictError, ControlPlaneError, Interrupted
from control_plane.models import InvocationInfo

T = TypeVar("T")

Start = Callable[[BaseClient, str, int, tuple[Any, ...]], Steps[InvocationInfo]]
"""Makes the steps that start the call with these arguments: of a version, number n, from 0."""
OnProgress = Callable[[int, int | None], None]
"""Told how many calls have ended, and how many there are; None while that is not known."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is called, and how."""

    project: str
    version: str
    """An id, or `latest`, which is looked up once."""
    start: Start
    connection: Connection


_CANCEL_SECONDS = 10.0
_END_SECONDS = 5.0
"""Seconds for the thread of the calls to end."""


class _Order(Generic[T]):
    """Holds results back until their turn has come."""

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._next = 0
        self._held: dict[int, T] = {}

    def add(self, index: int, result: T) -> Iterator[T]:
        """Take a result; gives those whose turn it is."""
        if not self._ordered:
            yield result
            return
        self._held[index] = result
        while self._next in self._held:
            self._next += 1
            yield self._held.pop(self._next - 1)


class _Calls:
    """The calls that are open, in one event loop."""

    def __init__(self, client: AsyncClient, plan: Plan, *, return_exceptions: bool) -> None:
        self._client = client
        self._plan = plan
        self._version: asyncio.Task[str] | None = None
        self._return_exceptions = return_exceptions
        self._open: dict[int, asyncio.Task[InvocationInfo]] = {}

    async def call(self, index: int, arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401 - the function's own
        """Make one call, from its start to its result."""
        try:
            version = await asyncio.shield(self._find_version())
            steps = self._plan.start(self._client, version, index, arguments)
            # A task of its own: a start that is cut off halfway could not be cancelled.
            starting = asyncio.ensure_future(self._client.perform(steps))
            self._open[index] = starting
            started = await asyncio.shield(starting)
            ended = await self._client.wait_for_invocation(started.path)
            del self._open[index]
            return result_of(ended)
        except ControlPlaneError as error:
            if self._return_exceptions:
                return error
            raise

    def _find_version(self) -> "asyncio.Task[str]":
        if self._version is None:
            steps = resolve_version(self._client.exchange, self._plan.project, self._plan.version)
            self._version = asyncio.ensure_future(self._client.perform(steps))
        return self._version

    async def cancel(self, *, seconds: float) -> None:
        """Cancel the calls that have not ended, as far as that can be done in so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*map(self._cancel, self._open.values()))

    async def _cancel(self, starting: asyncio.Task[InvocationInfo]) -> None:
        with suppress(ControlPlaneError):
            started = await starting
            with suppress(ConflictError):
                await self._client.cancel_invocation(started.path)


def iterate(
    inputs: Iterable[tuple[Any, ...]],
    plan: Plan,
    *,
    total: int | None,
    max_parallel: int,
    ordered: bool,
    return_exceptions: bool,
    on_progress: OnProgress,
) -> Iterator[Any]:
    """Give the results of the calls for all inputs; see `Function.map`."""
    order: _Order[Any] = _Order(ordered=ordered)
    source, done = enumerate(inputs), 0
    pending: dict[concurrent.futures.Future[Any], int] = {}
    with _LoopThread() as loop:
        client = loop.submit(_made(plan.connection.own_async_client)).result()
        calls = _Calls(client, plan, return_exceptions=return_exceptions)
        try:
            on_progress(0, total)
            while True:
                for index, arguments in source:
                    pending[loop.submit(calls.call(index, arguments))] = index
                    if len(pending) >= max_parallel:
                        break
                if not pending:
                    return
                ended, _ = concurrent.futures.wait(
                    pending, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in ended:
                    index = pending.pop(future)
                    result = future.result()
                    done += 1
                    on_progress(done, total)
                    yield from order.add(index, result)
        finally:
            for future in pending:
                future.cancel()
            # Calls below a cancelled one are cancelled with it, and there is little time.
            seconds = 0.0 if isinstance(sys.exception(), Interrupted) else _CANCEL_SECONDS
            with suppress(TimeoutError):
                loop.submit(_end(calls, client, seconds=seconds)).result(seconds + _END_SECONDS)


async def iterate_async(
    inputs: Iterable[tuple[Any, ...]],
    plan: Plan,
    *,
    total: int | None,
    max_parallel: int,
    ordered: bool,
    return_exceptions: bool,
    on_progress: OnProgress,
) -> AsyncGenerator[Any, None]:
    """Give the results of the calls for all inputs; see `Function.map`."""
    order: _Order[Any] = _Order(ordered=ordered)
    source, done = enumerate(inputs), 0
    pending: dict[asyncio.Task[Any], int] = {}
    client = plan.connection.own_async_client()
    calls = _Calls(client, plan, return_exceptions=return_exceptions)
    try:
        on_progress(0, total)
        while True:
            for index, arguments in source:
                pending[asyncio.ensure_future(calls.call(index, arguments))] = index
                if len(pending) >= max_parallel:
                    break
            if not pending:
                return
            ended, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                index = pending.pop(task)
                result = task.result()
                done += 1
                on_progress(done, total)
                for each in order.add(index, result):
                    yield each
    finally:
        for task in pending:
            task.cancel()
        await _end(calls, client, seconds=_CANCEL_SECONDS)


async def _made(make: Callable[[], T]) -> T:
    return make()


async def _end(calls: _Calls, client: AsyncClient, *, seconds: float) -> None:
    try:
        await calls.cancel(seconds=seconds)
    finally:
        await client.close()


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="control-plane-map", daemon=True)

    def __enter__(self) -> "_LoopThread":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        # An exception that a signal has raised among the locks of futures may have left one locked.
        self._thread.join(_END_SECONDS)

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start some work in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _run(self) -> None:
        # Signals are for the thread that waits for the results.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(_all_ended(self._loop))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


async def _all_ended(loop: asyncio.AbstractEventLoop) -> None:
    others = asyncio.all_tasks(loop) - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)

"""The handle on one call of a function."""

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeVar

from control_plane._call.arguments import decode_output
from control_plane._call.connection import Connection
from control_plane._http.client import BaseClient
from control_plane._http.exchange import Stream
from control_plane._http.follower import Event, Follower, Line, Output
from control_plane.errors import (
    ConflictError,
    ControlPlaneError,
    InvocationCancelledError,
    InvocationFailedError,
    InvocationTimedOutError,
)
from control_plane.models import Execution, InvocationInfo, InvocationPath

R_co = TypeVar("R_co", covariant=True)

# Where the runner's text of an error goes over to what Python shows of it. The last form is that of
# a mistake in the syntax, and the text before may have empty lines, too.
_TRACEBACK = re.compile(
    r"\n\n(?=Traceback \(most recent call last\):\n"
    r"|  \+ Exception Group Traceback \(most recent call last\):\n"
    r'|  File ".*", line \d+\n)'
)


class Invocation(Generic[R_co]):
    """One call of a function, which may run, wait or have ended.

    It is made by `Function.start` or, for a call that exists already, by `Function.invocation`.
    Each method has a twin whose name ends in `_async`, to be awaited in an event loop.

    All methods raise, besides what they name, what `Client` raises.
    """

    def __init__(self, path: InvocationPath, *, connection: Connection) -> None:
        self.path = path
        self._connection = connection
        self._ended: InvocationInfo | None = None
        self._temporal_url: str | None = None

    @property
    def id(self) -> str:
        """`inv-...`."""
        return self.path.invocation_id

    @property
    def url(self) -> str | None:
        """The address of this call in Temporal's web UI; None if the server has none."""
        if self._temporal_url is None:
            self.status()
        return self._temporal_url

    def __repr__(self) -> str:
        return f"<Invocation {self.id} of {self.path.function_name}>"

    def status(self) -> InvocationInfo:
        """Ask how it is: its `phase`, `progress`, `output` and `executions`, among others."""
        if self._ended is not None:
            return self._ended
        return self._seen(self._connection.client.get_invocation(self.path))

    async def status_async(self) -> InvocationInfo:
        """See `status`."""
        if self._ended is not None:
            return self._ended
        return self._seen(await self._connection.async_client.get_invocation(self.path))

    def result(self, timeout: float | None = None) -> R_co:
        """Wait for the end and give what the function gave.

        Args:
            timeout: seconds to wait at most; None for as long as it takes.

        Returns:
            The return value as JSON gives it back (tuples have become lists); of a generator, the
            last value that it has yielded. An output of a worker in another language that is not
            JSON is given as text.

        Raises:
            WaitTimeoutError: it has not ended in time. It goes on; ask again, or cancel it.
            InvocationFailedError: the function raised an exception, or its worker was lost.
            InvocationCancelledError: it was cancelled.
            InvocationTimedOutError: the function's own time limit has passed.
        """
        info = self._ended or self._connection.client.wait_for_invocation(self.path, timeout)
        return result_of(self._seen(info))  # type: ignore[no-any-return]  # JSON, as declared

    async def result_async(self, timeout: float | None = None) -> R_co:
        """See `result`."""
        info = self._ended or await self._connection.async_client.wait_for_invocation(
            self.path, timeout
        )
        return result_of(self._seen(info))  # type: ignore[no-any-return]  # JSON, as declared

    def cancel(self) -> None:
        """Ask for it, and all that it has called, to be cancelled; changes nothing after its end.

        Returns at once. The function sees `InvocationCancelled` and may clean up; `result` raises
        `InvocationCancelledError` when the worker is gone.
        """
        try:
            self._connection.client.cancel_invocation(self.path)
        except ConflictError:
            return

    async def cancel_async(self) -> None:
        """See `cancel`."""
        try:
            await self._connection.async_client.cancel_invocation(self.path)
        except ConflictError:
            return

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """Give the lines that its attempts have written, the first attempt first.

        With `follow`, also the lines to come, until it has ended.
        """
        client = self._connection.client
        for event in client.iterate(self._output(client, follow=follow)):
            if isinstance(event, Line):
                yield event.text
            else:
                self._seen(event)

    async def logs_async(self, *, follow: bool = False) -> AsyncIterator[str]:
        """See `logs`."""
        client = self._connection.async_client
        async for event in client.iterate(self._output(client, follow=follow)):
            if isinstance(event, Line):
                yield event.text
            else:
                self._seen(event)

    def watch(self) -> Iterator[InvocationInfo]:
        """Give its state now and after each change that is seen, the last time at its end.

        It is looked at ten times a second at first, and once a second where little changes. States
        that follow each other faster are skipped; the last one never is.
        """
        client = self._connection.client
        for event in client.iterate(Follower(client.exchange, self.path).events()):
            if isinstance(event, InvocationInfo):
                yield self._seen(event)

    async def watch_async(self) -> AsyncIterator[InvocationInfo]:
        """See `watch`."""
        client = self._connection.async_client
        async for event in client.iterate(Follower(client.exchange, self.path).events()):
            if isinstance(event, InvocationInfo):
                yield self._seen(event)

    def stream(self) -> Iterator[R_co]:
        """Give the values that a generator function yields, as they come, until it has ended.

        Of values that come faster than they are seen (see `watch`), the newest is given; the last
        one always is. An attempt that follows a failed one begins again, and so do its values. For
        a function that returns its value, that is the one value.

        Raises:
            As `result`, after the values.
        """
        values = _Values()
        for info in self.watch():
            yield from values.new_in(info)

    async def stream_async(self) -> AsyncIterator[R_co]:
        """See `stream`."""
        values = _Values()
        async for info in self.watch_async():
            for value in values.new_in(info):
                yield value

    def _output(self, client: BaseClient, *, follow: bool) -> Stream[Event]:
        follower = Follower(client.exchange, self.path, output=Output(), known=self._ended)
        return follower.events(to_end=follow)

    def _seen(self, info: InvocationInfo) -> InvocationInfo:
        self._temporal_url = info.temporal_url
        if info.has_ended:
            self._ended = info
        return info


class _Values:
    """The values that a generator function has yielded, as far as they were seen."""

    def __init__(self) -> None:
        self._last: tuple[str, str] | None = None

    def new_in(self, info: InvocationInfo) -> Iterator[Any]:
        """Give the value that this state shows for the first time.

        Raises:
            InvocationError: it has ended without a result.
        """
        execution = info.executions[-1] if info.executions else None
        if execution is not None and execution.output is not None:
            newest = (execution.execution_id, execution.output)
            if newest != self._last:
                self._last = newest
                yield decode_output(execution.output)
        if info.has_ended:
            result_of(info)


def result_of(info: InvocationInfo) -> Any:  # noqa: ANN401 - whatever the function gave
    """Give the result of an invocation that has ended.

    Raises:
        InvocationFailedError: it has none, since it failed.
        InvocationCancelledError: since it was cancelled.
        InvocationTimedOutError: since its time limit has passed.
    """
    last = info.executions[-1] if info.executions else None
    if info.phase == "SUCCEEDED":
        return decode_output(None if last is None else last.output)
    name = f"{info.function_name} ({info.invocation_id})"
    if info.phase == "CANCELLED":
        raise InvocationCancelledError(f"{name} was cancelled{_detail(info)}", invocation=info)
    if info.phase == "TIMED_OUT":
        raise InvocationTimedOutError(
            f"{name} did not end within {info.execution_spec.timeout_seconds} seconds of its "
            f"creation{_detail(info)}",
            invocation=info,
        )
    if info.phase != "FAILED":
        raise ControlPlaneError(f"{name} has ended in an unknown way: {info.phase}")
    error, traceback = _error_of(last, info)
    raise InvocationFailedError(error=error, remote_traceback=traceback, invocation=info)


def _error_of(last: Execution | None, info: InvocationInfo) -> tuple[str, str]:
    message = None if last is None else last.error_message
    if message is None:
        cause = None if last is None else last.cause
        return info.phase_detail or (cause or "failed").replace("_", " "), ""
    error, *traceback = _TRACEBACK.split(message, maxsplit=1)
    return error, "".join(traceback).rstrip()


def _detail(info: InvocationInfo) -> str:
    return f": {info.phase_detail}" if info.phase_detail else ""

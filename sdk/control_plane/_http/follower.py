"""Follows an invocation: its state as it changes, the lines that it writes, its end.

As in `control_plane._http.exchange`, nothing here sends or sleeps: a client performs the steps, the
plain one or the async one. So one class polls a state, one reads a log, and one loop does both.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from control_plane._http.exchange import Exchange, Give, Pause, Steps, Stream
from control_plane._http.requests import get_invocation, get_logs
from control_plane.errors import WaitTimeoutError
from control_plane.models import Execution, InvocationInfo, InvocationPath


@dataclass(frozen=True)
class Line:
    """A line of an execution's output."""

    execution_id: str
    attempt: int | None
    """The execution's number; None where there was no look at the invocation."""
    text: str


Event = InvocationInfo | Line


@dataclass(frozen=True, kw_only=True)
class Output:
    """Which output of an invocation is wanted: the lines of its executions, in their order."""

    execution_id: str | None = None
    """Of this execution alone."""
    first_attempt: int = 1
    """Of the executions from this attempt on."""
    since: float | None = None
    """Epoch seconds. What the first of these executions has written before is left out."""
    tail: int | None = None
    """Begin so many lines before the present end of the first of these executions."""


@dataclass(frozen=True, kw_only=True)
class _Pace:
    """How often a state is looked at. Each look waits, at the server, for the invocation's end.

    Where lines are wanted, each look is followed by a request for them: so late they may come.
    """

    first_wait: float
    shortest_wait: float
    """After something new."""
    longest_wait: float
    shortest_round: float
    """From look to look. A server that is being stopped does not wait, but answers at once."""


_WATCHING = _Pace(first_wait=0.0, shortest_wait=0.1, longest_wait=1.0, shortest_round=0.05)
_READING = _Pace(first_wait=0.0, shortest_wait=0.1, longest_wait=0.5, shortest_round=0.05)
# Proxies tend to cut what is silent for a minute.
_WAITING = _Pace(first_wait=30.0, shortest_wait=30.0, longest_wait=30.0, shortest_round=0.25)


class Follower:
    """Follows one invocation, for one consumer."""

    def __init__(
        self,
        exchange: Exchange,
        path: InvocationPath,
        *,
        output: Output | None = None,
        timeout: float | None = None,
        known: InvocationInfo | None = None,
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            exchange: gives the steps of a request.
            path: the invocation.
            output: which lines are wanted; None for none.
            timeout: seconds until the invocation must have ended.
            known: its state as it was just read, which saves a look where that is enough.
        """
        self._exchange = exchange
        self._path = path
        self._output = output
        self._known = known
        pace = _WATCHING if output is None else _READING
        self._poll = _Poll(exchange, path, timeout=timeout, pace=pace)
        self._readers: dict[str, _LogReader] = {}

    def events(self, *, to_end: bool = True) -> Stream[Event]:
        """Give the state at each change that is seen, and the lines as they come.

        Args:
            to_end: go on until the invocation has ended, and give its last state after the last
                line; where one execution's lines alone are wanted, until these have ended, before
                the invocation or after it. False: give what is there, and wait for nothing.

        Raises:
            WaitTimeoutError: it has not ended in time.
            Also what `exchange` raises.
        """
        one = None if self._output is None else self._output.execution_id
        info = self._known
        if to_end and info is not None and not info.has_ended:
            info = None
        while True:
            # The lines that one execution has written by now can be read without a look.
            if info is None and (to_end or one is None):
                info = yield from self._poll.look()
                if self._poll.is_news and not info.has_ended:
                    yield Give(info)
            for execution_id, execution in self._wanted(info):
                attempt = None if execution is None else execution.attempt
                has_ended = execution is not None and execution.worker_status == "TERMINATED"
                reader = self._reader(execution_id)
                while lines := (yield from reader.next_lines(has_ended=has_ended)):
                    self._poll.look_soon()
                    for text in lines:
                        yield Give(Line(execution_id, attempt, text))
            invocation_has_ended = info is not None and info.has_ended
            if not to_end or (invocation_has_ended if one is None else self._reader(one).is_over):
                if info is not None and invocation_has_ended:
                    yield Give(info)
                return
            info = None

    def _wanted(self, info: InvocationInfo | None) -> list[tuple[str, Execution | None]]:
        """Give the executions whose lines are wanted, as far as there are any."""
        executions = {} if info is None else {each.execution_id: each for each in info.executions}
        if self._output is None:
            return []
        one = self._output.execution_id
        if one is not None:
            return [(one, executions.get(one))]
        first = self._output.first_attempt
        return [(key, each) for key, each in executions.items() if each.attempt >= first]

    def _reader(self, execution_id: str) -> "_LogReader":
        if execution_id not in self._readers:
            is_first = self._output is not None and not self._readers
            self._readers[execution_id] = _LogReader(
                self._exchange,
                self._path,
                execution_id,
                since=self._output.since if self._output and is_first else None,
                tail=self._output.tail if self._output and is_first else None,
            )
        return self._readers[execution_id]


def wait_for_end(
    exchange: Exchange, path: InvocationPath, *, timeout: float | None
) -> Steps[InvocationInfo]:
    """Wait until an invocation is TERMINATED.

    Args:
        exchange: gives the steps of a request.
        path: the invocation.
        timeout: seconds, or None to wait for as long as it takes.

    Raises:
        WaitTimeoutError: it has not ended in time.
        Also what `exchange` raises.
    """
    poll = _Poll(exchange, path, timeout=timeout, pace=_WAITING)
    while not (info := (yield from poll.look())).has_ended:
        pass
    return info


def texts(events: Iterable[Event]) -> Iterator[str]:
    """Give the texts of the lines among events."""
    return (event.text for event in events if isinstance(event, Line))


class _Poll:
    """Looks at an invocation again and again: soon after news, later where little changes."""

    def __init__(
        self, exchange: Exchange, path: InvocationPath, *, timeout: float | None, pace: _Pace
    ) -> None:
        self._exchange = exchange
        self._path = path
        self._pace = pace
        self._wait = pace.first_wait
        self._timeout = timeout
        self._until = None if timeout is None else time.monotonic() + timeout
        self._looked_at = 0.0
        self._last: InvocationInfo | None = None
        self.is_news = False
        """Whether the last look has shown another state than the one before."""

    def look(self) -> Steps[InvocationInfo]:
        """Give the state, when it is time for another look.

        Raises:
            WaitTimeoutError: it has not ended in time.
        """
        if self._last is not None:
            left = self._seconds_left()
            if left <= 0:
                raise WaitTimeoutError(
                    f"The invocation {self._path.invocation_id} has not ended within "
                    f"{self._timeout:g} seconds; it is {self._last.phase}"
                )
            passed = time.monotonic() - self._looked_at
            # After the end the server waits no more, though an execution may still be open.
            between = self._wait if self._last.has_ended else self._pace.shortest_round
            yield Pause(max(0.0, min(between - passed, left)))
        self._looked_at = time.monotonic()
        wait = max(0.0, min(self._wait, self._seconds_left()))
        info = yield from self._exchange(get_invocation(self._path, wait=wait))
        self.is_news = self._last is None or info.raw != self._last.raw
        self._last = info
        longer = max(self._wait, self._pace.shortest_wait) * 1.5
        self._wait = min(longer, self._pace.longest_wait)
        if self.is_news:
            self.look_soon()
        return info

    def look_soon(self) -> None:
        """Let the next look come early, since something is happening."""
        self._wait = self._pace.shortest_wait

    def _seconds_left(self) -> float:
        return float("inf") if self._until is None else self._until - time.monotonic()


class _LogReader:
    """Reads an execution's output, page by page."""

    def __init__(
        self,
        exchange: Exchange,
        path: InvocationPath,
        execution_id: str,
        *,
        since: float | None,
        tail: int | None,
    ) -> None:
        self._exchange = exchange
        self._path = path
        self._execution_id = execution_id
        self._since = since
        self._tail = tail
        self._offset: str | None = None
        self.is_over = False
        """Whether all has been read."""

    def next_lines(self, *, has_ended: bool) -> Steps[tuple[str, ...]]:
        """Give lines that were not given before; none if there are no more for now.

        Args:
            has_ended: whether the execution's worker was TERMINATED before this was called: what it
                had written until then is on a page that is asked for after that.
        """
        if self.is_over:
            return ()
        is_first = self._offset is None
        page = yield from self._exchange(
            get_logs(
                self._path,
                self._execution_id,
                offset=self._offset,
                since=self._since if is_first else None,
                tail=self._tail if is_first else None,
            )
        )
        if page.next_offset is None:
            # The server says that at the end, and also before there is a worker.
            self.is_over = has_ended or not is_first or bool(page.log_lines)
        else:
            self._offset = page.next_offset
            self.is_over = has_ended and not page.log_lines
        return page.log_lines

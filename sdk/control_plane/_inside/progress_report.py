"""`progress`: what a function says about how far it is.

This module stays light, and outside of the package `runner`: while the function is in here, a
SIGTERM must reach it as anywhere else in its code.
"""

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CHARACTERS = 16_384
"""Of a report, as compact JSON."""


def progress(
    done: float | None = None,
    total: float | None = None,
    message: str | None = None,
    **fields: object,
) -> None:
    """Report how far this call is. Others see it with the invocation, while it runs.

    Returns at once and never raises: reports are sent by a thread, a few in a second at most, of
    which the newest counts. The last one is sent before the call ends. What cannot be sent, or is
    not JSON, or is too long, is left out, and the worker's log says so. Where no control plane runs
    the function, nothing happens.

    Args:
        done: how much is done, in any unit.
        total: how much there is, in the same unit.
        message: what it is doing.
        **fields: anything else that is JSON. All together has at most 16,384 characters.
    """
    if _newest is None:
        return
    report = {"done": done, "total": total, "message": message}
    _newest.put({name: value for name, value in report.items() if value is not None} | fields)


class NewestReport:
    """The newest report, kept until it is sent.

    Written without locks: a SIGTERM raises an exception in the thread of the function at any place,
    and a lock that it leaves behind would stop the worker from ending.

    The thread that sends has to look for a newer report from time to time.
    """

    def __init__(self, *, start: "Callable[[], None]", complain: "Callable[[str], None]") -> None:
        """Prepare; there is no report yet.

        Args:
            start: called before the first report, once.
            complain: called with what is wrong with a report, once for each kind of trouble.
        """
        self._newest: str | None = None
        self._start = [start]
        self._complain = complain
        self._process_id = os.getpid()

    def put(self, report: "dict[str, object]") -> None:
        """Keep a report; an earlier one that was not taken is forgotten."""
        if os.getpid() != self._process_id:
            # In a process that the user's code has forked there is no thread to send it.
            return
        try:
            text = json.dumps(report, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            self._complain(f"a progress report is left out, since it is not JSON: {error}")
            return
        if len(text) > MAX_CHARACTERS:
            self._complain(
                f"a progress report is left out: {len(text):,} characters of JSON, where at most "
                f"{MAX_CHARACTERS:,} can be kept"
            )
            return
        self._newest = text
        if self._start:
            # Of several threads that are here for the first time, one gets it.
            try:
                start = self._start.pop()
            except IndexError:
                return
            start()

    def take(self) -> str | None:
        """Give the newest report, again and again; None if there never was one."""
        return self._newest


_newest: NewestReport | None = None


def keep_reports_in(newest: NewestReport) -> None:
    """Keep reports from now on, so that they are sent; the runner does that, once."""
    global _newest  # noqa: PLW0603 - there is one call in a worker
    _newest = newest

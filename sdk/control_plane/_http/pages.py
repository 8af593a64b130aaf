"""Going from page to page: through a function's invocations, and through an execution's output.

As in `control_plane._http.exchange`, nothing here sends or sleeps: each page is a few steps that a
client performs, the plain one or the async one.
"""

from typing import Protocol, TypeVar

from control_plane._http.exchange import Pause, Steps
from control_plane._http.requests import Call, get_invocation, get_logs, list_invocations
from control_plane.models import InvocationPath, InvocationSummary

T = TypeVar("T")

_PAUSE_SECONDS = 0.5
"""Before the next look for lines where there were none."""


class Exchange(Protocol):
    """Gives the steps of one request; see `BaseClient.exchange`."""

    def __call__(self, call: Call[T], /) -> Steps[T]:
        """Give the steps."""
        ...


class InvocationPages:
    """All invocations of a function, newest first; a status or a parent leaves others out."""

    def __init__(
        self,
        exchange: Exchange,
        project: str,
        function: str,
        *,
        version: str,
        status: str | None,
        parent: tuple[str, str] | None,
    ) -> None:
        self._exchange = exchange
        self._project = project
        self._function = function
        self._version = version
        self._status = status
        self._parent = parent
        self._offset: str | None = None
        self._is_over = False

    def next(self) -> Steps[tuple[InvocationSummary, ...] | None]:
        """Give the next page; None after the last one."""
        if self._is_over:
            return None
        page = yield from self._exchange(
            list_invocations(
                self._project,
                self._function,
                version=self._version,
                status=self._status,
                parent=self._parent,
                offset=self._offset,
            )
        )
        # The other pages are of the same version, whatever `latest` means meanwhile.
        self._version, self._offset = page.version_id, page.next_offset
        self._is_over = self._offset is None
        return page.invocations


class LogPages:
    """The lines of an execution's output; with `follow`, also those to come, until its end."""

    def __init__(
        self, exchange: Exchange, path: InvocationPath, execution_id: str, *, follow: bool
    ) -> None:
        self._exchange = exchange
        self._path = path
        self._execution_id = execution_id
        self._follow = follow
        self._offset: str | None = None
        self._is_over = False

    def next(self) -> Steps[tuple[str, ...] | None]:
        """Give the next lines, as soon as there are some; None after the last ones."""
        while not self._is_over:
            # Asked before its page: all that was written before the end is on a page after it.
            may_come = self._follow and self._offset is None and not (yield from self._has_ended())
            page = yield from self._exchange(
                get_logs(self._path, self._execution_id, offset=self._offset)
            )
            if page.next_offset is None:
                # That is said at the end, and also while there is no worker yet.
                has_begun = self._offset is not None or page.log_lines
                self._is_over = bool(has_begun) or not may_come
            else:
                self._is_over = not page.log_lines and not self._follow
            self._offset = page.next_offset
            if page.log_lines:
                return page.log_lines
            if not self._is_over:
                yield Pause(_PAUSE_SECONDS)
        return None

    def _has_ended(self) -> Steps[bool]:
        info = yield from self._exchange(get_invocation(self._path))
        return any(
            each.execution_id == self._execution_id and each.worker_status == "TERMINATED"
            for each in info.executions
        )

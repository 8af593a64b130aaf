"""The first SIGTERM, by which the control plane asks this worker to end."""

import os
import signal
import time

from control_plane.errors import Interrupted, InvocationCancelled, InvocationTimedOut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType
    from typing import TypeVar

    T = TypeVar("T")

_OUR_MODULES = "control_plane.runner."


class Sigterm:
    """Remembers the first SIGTERM and raises it in the user's code, and only there.

    The user's code runs inside `call` or `step`. A signal that arrives while the runner's own code
    runs, such as an HTTP call, waits for the next of them. Later signals change nothing.

    Attributes:
        arrived_at: when the first signal came, in epoch seconds, or None.
        time_limit: the invocation's creation time and its time limit, both in seconds, once known.
        wake: called from the signal handler instead of raising, while an event loop runs.
    """

    def __init__(self) -> None:
        self.arrived_at: float | None = None
        self.time_limit: tuple[int, int] | None = None
        self.wake: Callable[[], None] | None = None
        self._delivered = False
        self._in_user_code = False
        self._closed = False

    def install(self) -> None:
        """Take over the signal in this process, and give it back in processes forked from it."""
        handler = self._on_signal
        signal.signal(signal.SIGTERM, handler)
        masks: list[set[int]] = []

        # A child of the user's code (multiprocessing) must die of SIGTERM as it always does. The
        # signal is held back meanwhile, since the interpreter drops one that comes right after the
        # fork while a handler is still set.
        def hold() -> None:
            masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})))

        def let_go() -> None:
            signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop())

        def give_back() -> None:
            if signal.getsignal(signal.SIGTERM) == handler:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            let_go()

        os.register_at_fork(before=hold, after_in_parent=let_go, after_in_child=give_back)

    def close(self) -> None:
        """Let signals change nothing from now on: the function has ended."""
        self._closed = True

    @property
    def pending(self) -> bool:
        """Whether a signal has arrived that the user's code has not seen."""
        return self.arrived_at is not None and not self._delivered

    def take(self) -> Interrupted:
        """Give the exception for the pending signal, which counts as delivered from then on."""
        self._delivered = True
        arrived_at = time.time() if self.arrived_at is None else self.arrived_at
        if self.time_limit is not None:
            creation_time, timeout_seconds = self.time_limit
            if int(arrived_at) > creation_time + timeout_seconds:
                return InvocationTimedOut(
                    f"the invocation has not ended within {timeout_seconds} seconds of its creation"
                )
        return InvocationCancelled("the invocation was cancelled")

    # In `call` and `step` a signal is raised only while a frame of the user's code is on top. The
    # interpreter looks for signals when it enters a Python function and when it returns from C
    # code, but not between the test of `pending` and the entry of the user's function: a signal
    # that is seen in our own frame has come after the end of the user's code, and its result must
    # not be lost for it.

    def call(self, function: "Callable[..., T]", /, *args: object, **kwargs: object) -> "T":
        """Call a function of the user's; a signal that is already pending is raised instead."""
        self._in_user_code = True
        try:
            if self.pending:
                raise self.take()
            return function(*args, **kwargs)
        finally:
            self._in_user_code = False

    def step(self, generator: "Generator[object, None, object]") -> object:
        """Go on with a generator of the user's; a pending signal is thrown into it.

        Raises:
            StopIteration: the generator has ended.
        """
        self._in_user_code = True
        try:
            if self.pending:
                return generator.throw(self.take())
            return next(generator)
        finally:
            self._in_user_code = False

    def _on_signal(self, _number: int, frame: "FrameType | None") -> None:
        if self._closed or self.arrived_at is not None:
            return
        self.arrived_at = time.time()
        if self.wake is not None:
            self.wake()
        elif self._in_user_code and not _is_ours(frame):
            raise self.take()


def _is_ours(frame: "FrameType | None") -> bool:
    return frame is None or str(frame.f_globals.get("__name__", "")).startswith(_OUR_MODULES)

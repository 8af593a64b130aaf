"""The values that a generator yields, as updates: each while they are few, else the newest."""

import os
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading

    from control_plane.runner.report import Report

BURST = 100
"""Values that are reported one by one, however quickly they come."""
PAUSE_SECONDS = 0.2
"""Beyond those, one value is reported in this time."""


class Updates:
    """Reports outputs, at most one at a time, and in the order in which they came.

    The first hundred are reported as they come, and the function waits for each. Every 0.2 seconds
    allow for one more. Values beyond that do not wait: a thread reports the newest of them every
    0.2 seconds, so that what was yielded last is always visible soon. `flush` reports what is left.

    For one thread of the user's code at a time.
    """

    def __init__(
        self, report: "Report", *, burst: int = BURST, pause_seconds: float = PAUSE_SECONDS
    ) -> None:
        self._report = report
        self._burst = burst
        self._pause = pause_seconds
        self._allowed = float(burst)
        self._counted_at = time.monotonic()
        self._process_id = os.getpid()
        # Everything below is there only once values have come too quickly.
        self._thread: threading.Thread | None = None
        self._changed: threading.Condition | None = None
        self._flushing: threading.Event | None = None
        self._newest: str | None = None
        self._failure: BaseException | None = None

    @property
    def waits(self) -> bool:
        """Whether the next `put` reports by itself, and may take long."""
        return self._thread is None and self._allowance() >= 1

    def put(self, output: str) -> None:
        """Report an output, now or soon.

        Raises:
            NoMoreReports: this or an earlier one could not be reported.
        """
        if self._is_copy():
            return
        if self._thread is None and self._allowance() >= 1:
            self._allowed -= 1
            self._report.update(output)
            return
        changed = self._changed or self._start_thread()
        with changed:
            self._raise_failure()
            is_first = self._newest is None
            self._newest = output
            if is_first:
                changed.notify()

    def flush(self) -> None:
        """Report what is left; returns when it has arrived.

        Raises:
            NoMoreReports: this or an earlier one could not be reported.
        """
        thread, changed, flushing = self._thread, self._changed, self._flushing
        if self._is_copy() or thread is None or changed is None or flushing is None:
            return
        with changed:
            flushing.set()
            changed.notify()
        thread.join()
        self._raise_failure()

    def _allowance(self) -> float:
        now = time.monotonic()
        self._allowed = min(self._burst, self._allowed + (now - self._counted_at) / self._pause)
        self._counted_at = now
        return self._allowed

    def _start_thread(self) -> "threading.Condition":
        # Imported here since most functions never need it.
        import threading  # noqa: PLC0415 - see above

        changed = self._changed = threading.Condition()
        flushing = self._flushing = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(changed, flushing), daemon=True)
        self._thread.start()
        return changed

    def _is_copy(self) -> bool:
        # In a process that the user's code has forked there is no thread, and its lock may be held.
        return os.getpid() != self._process_id

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self, changed: "threading.Condition", flushing: "threading.Event") -> None:
        # A SIGTERM is for the thread that runs the user's code: it may be in a system call.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        while True:
            with changed:
                while self._newest is None and not flushing.is_set():
                    changed.wait()
                output, self._newest = self._newest, None
            if output is None:
                return
            try:
                self._report.update(output)
            except BaseException as failure:  # noqa: BLE001 - raised where the function yields
                with changed:
                    self._failure = failure
                return
            flushing.wait(self._pause)

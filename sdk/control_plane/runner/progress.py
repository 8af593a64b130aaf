"""Sends what the function reports with `progress(...)`: in its own thread and connection."""

import signal
import time

from control_plane._inside.progress_report import NewestReport
from control_plane.runner.streams import say
from control_plane.runner.transport import NoAnswerError, Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading

    from control_plane.runner.identity import Identity

PAUSE_SECONDS = 0.25
"""Between two reports."""
_LAST_SECONDS = 5.0
_RETRY_SECONDS = 1.0


class ProgressReports:
    """The thread that sends reports; there is none before the first one.

    A report that fails does not fail the function: while the API is away, the newest report waits
    until it is back, and if the API does not want any, that is said once in the log.
    """

    def __init__(self, identity: "Identity", *, timeout: float = 10.0) -> None:
        """Prepare; nothing is sent yet. `timeout`: seconds for one try."""
        self.newest = NewestReport(start=self._start, complain=self._complain)
        self._path = identity.execution_path + "/progress"
        self._transport = Transport(identity.api_url, api_key=identity.api_key, timeout=timeout)
        self._thread: threading.Thread | None = None
        self._ending: threading.Event | None = None
        self._sent: str | None = None
        self._refused = False
        self._complaints: set[str] = set()

    def flush(self, *, seconds: float = _LAST_SECONDS) -> None:
        """Send what is left; returns when it has arrived, or after so many seconds."""
        thread, ending = self._thread, self._ending
        if thread is None or ending is None or not thread.is_alive():
            return
        ending.set()
        thread.join(seconds)

    def _start(self) -> None:
        # Imported here since most functions never need it.
        import threading  # noqa: PLC0415 - see above

        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._ending,), daemon=True)
        self._thread.start()

    def _run(self, ending: "threading.Event") -> None:
        # A SIGTERM is for the thread that runs the user's code: it may be in a system call.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        give_up_at: float | None = None
        while not self._refused:
            # Looked at first: what was reported before the end is seen below.
            is_last = ending.is_set()
            pause = PAUSE_SECONDS
            report = self.newest.take()
            if report is not None and report is not self._sent:
                if self._send(report):
                    self._sent = report
                else:
                    pause = _RETRY_SECONDS
            if not is_last:
                ending.wait(pause)
                continue
            give_up_at = give_up_at or time.monotonic() + _LAST_SECONDS
            if report is self._sent or time.monotonic() > give_up_at:
                return
            time.sleep(PAUSE_SECONDS)

    def _send(self, report: str) -> bool:
        """Try once; returns whether the report is done with."""
        body = f'{{"progress":{report}}}'.encode(errors="backslashreplace")
        try:
            answer = self._transport.send("PUT", self._path, body=body)
        except NoAnswerError as error:
            self._complain(f"a progress report waits: {error}")
            return False
        if answer.is_success:
            return True
        if answer.status >= 500 or answer.status == 429:
            self._complain(f"a progress report waits: {answer.status} {answer.detail}")
            return False
        self._complain(f"the API refused a progress report: {answer.status} {answer.detail}")
        # Another report may be better where this one is wrong; elsewhere none is wanted.
        self._refused = answer.status not in (413, 422)
        return True

    def _complain(self, text: str) -> None:
        kind = text.partition(":")[0]
        if kind not in self._complaints:
            self._complaints.add(kind)
            say(text)

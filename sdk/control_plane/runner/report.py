"""What a worker tells the control plane about its execution, and how it makes sure of it."""

import os
import time

from control_plane.runner.streams import say
from control_plane.runner.transport import Answer, NoAnswerError, Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from control_plane.runner.identity import Identity
    from control_plane.runner.sigterm import Sigterm

ALREADY_STARTED = "This execution has already started"
ALREADY_FINISHED = "This execution has already finished"

_PATIENCE_AFTER_SIGTERM = 5.0

ANOTHER_WORKER = 3
ENDED_FROM_OUTSIDE = 4
NOT_REPORTED = 5


class NoMoreReports(Exception):  # noqa: N818 - it ends the reports, and is not always an error
    """Nothing more can be reported for this execution.

    Attributes:
        exit_code: the worker's exit status for this case.
    """

    def __init__(self, text: str, *, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class RefusedReportError(Exception):
    """The API does not accept the content of a report (it answered 413 or 422)."""


class Report:
    """Calls `start`, `update` and `finish`, each repeated until it is answered or time is up.

    Time is up one minute after the invocation's deadline (ten minutes after the first try while
    the deadline is not known). After a SIGTERM, `start` and `update` give up within five seconds,
    so that the function still gets to clean up.

    Attributes:
        attempt: which attempt this is, from 1; known after `start`.
    """

    def __init__(
        self,
        identity: "Identity",
        sigterm: "Sigterm",
        *,
        timeout: float = 10.0,
        patience: float = 600.0,
        grace: float = 60.0,
        least_patience: float = 10.0,
    ) -> None:
        """Prepare the reports; nothing is sent yet.

        Args:
            identity: names the execution.
            sigterm: learns the time limit; a signal shortens the patience.
            timeout: seconds for one try.
            patience: seconds for trying while the deadline is not known.
            grace: seconds for trying after the deadline.
            least_patience: seconds for trying in any case. Where the clocks of worker and server
                disagree, one lost connection must not lose a result.
        """
        self._path = identity.execution_path
        self._sigterm = sigterm
        self._transport = Transport(identity.api_url, api_key=identity.api_key, timeout=timeout)
        self._grace = grace
        self._least_patience = least_patience
        self.attempt = 1
        self._give_up_at = time.monotonic() + patience

    def start(self) -> str | None:
        """Report the start and give the invocation's input.

        Raises:
            NoMoreReports: another worker has started this execution, or the API is silent.
        """
        answer, earlier_arrived = self._send("PUT", "/start", yields=True)
        if answer.status == 409 and answer.detail == ALREADY_STARTED:
            if not earlier_arrived:
                raise NoMoreReports(
                    "another worker has already started this execution", exit_code=ANOTHER_WORKER
                )
            # Our own earlier try has started it; only its answer was lost.
            answer, _ = self._send("GET", "", yields=True)
        self._check(answer, "start")
        try:
            info = answer.content or {}
            text: str | None = info["input"]
            creation_time = int(info["invocation_creation_time"])
            timeout_seconds = int(info["execution_spec"]["timeout_seconds"])
            self.attempt = int(info.get("attempt", 1))
        except (KeyError, TypeError, ValueError) as error:
            raise NoMoreReports(
                f"the API's answer to start cannot be read ({type(error).__name__}: {error})",
                exit_code=NOT_REPORTED,
            ) from None
        self._sigterm.time_limit = (creation_time, timeout_seconds)
        remaining = creation_time + timeout_seconds - time.time()
        self._give_up_at = time.monotonic() + remaining + self._grace
        return text

    def update(self, output: str) -> None:
        """Report the latest output.

        Raises:
            NoMoreReports: the execution was ended from outside, or the API is silent.
        """
        try:
            answer, _ = self._send("PUT", "/update", {"latest_output": output}, yields=True)
        except NoMoreReports:
            if self._sigterm.arrived_at is None:
                raise
            say("the API does not answer; an update is left out because of the SIGTERM")
            return
        self._check(answer, "update")

    def finish(
        self, outcome: str, *, final_output: str | None = None, error_message: str | None = None
    ) -> None:
        """Report the end.

        Raises:
            NoMoreReports: the execution was ended from outside, or the API is silent.
            RefusedReportError: the API accepts the call but not this content.
        """
        content = {
            "outcome": outcome,
            "final_output": final_output,
            "error_message": error_message,
        }
        answer, earlier_arrived = self._send("PUT", "/finish", content, yields=False)
        if answer.status == 409 and answer.detail == ALREADY_FINISHED and earlier_arrived:
            return
        if answer.status in (413, 422):
            raise RefusedReportError(answer.detail)
        self._check(answer, "finish")

    def close(self) -> None:
        """End the connection."""
        self._transport.close()

    def _check(self, answer: Answer, verb: str) -> None:
        if answer.is_success:
            return
        text = f"the API refused {verb}: {answer.status} {answer.detail}"
        ended = answer.status == 409
        raise NoMoreReports(text, exit_code=ENDED_FROM_OUTSIDE if ended else NOT_REPORTED)

    def _send(
        self, method: str, verb: str, content: "dict[str, Any] | None" = None, *, yields: bool
    ) -> tuple[Answer, bool]:
        """Send until there is an answer that a repetition would not change.

        Returns:
            The answer, and whether an earlier try may have done its work unanswered.

        Raises:
            NoMoreReports: time is up.
        """
        arrived = False
        tries = 0
        give_up_at = max(self._give_up_at, time.monotonic() + self._least_patience)
        while True:
            tries += 1
            pause = pause_after(tries, noise=os.urandom(1)[0] / 255)
            try:
                answer = self._transport.send(method, self._path + verb, content)
            except NoAnswerError as error:
                arrived = arrived or error.may_have_arrived
                trouble = str(error)
            else:
                if answer.status < 500 and answer.status != 429:
                    if tries > 1:
                        say(f"the API answers again, at try {tries}")
                    return answer, arrived
                # A 5xx does not tell whether the work was done before it went wrong.
                arrived = arrived or answer.status != 429
                trouble = f"{answer.status} {answer.detail}"
                pause = max(pause, min(answer.retry_after, 60.0))
            if time.monotonic() + pause > self._patience_ends_at(give_up_at, yields=yields):
                raise NoMoreReports(
                    f"the API did not take {verb[1:] or 'a request'} in {tries} tries, the last: "
                    f"{trouble}",
                    exit_code=NOT_REPORTED,
                )
            if tries == 1:
                say(f"no success with {verb[1:] or 'a request'}, trying again: {trouble}")
            time.sleep(pause)

    def _patience_ends_at(self, give_up_at: float, *, yields: bool) -> float:
        arrived_at = self._sigterm.arrived_at
        if not yields or arrived_at is None:
            return give_up_at
        since_signal = time.time() - arrived_at
        return min(give_up_at, time.monotonic() + _PATIENCE_AFTER_SIGTERM - since_signal)


def pause_after(tries: int, *, noise: float) -> float:
    """Give the seconds to wait after so many unsuccessful tries, from about 0.1 up to 5.

    `noise`, between 0 and 1, spreads workers that lost the same server at the same moment.
    """
    return min(5.0, 0.1 * 2.0 ** min(tries - 1, 10)) * (0.5 + noise / 2)

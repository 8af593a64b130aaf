"""`Follower` without a server: what it asks for, and what it gives, answer by answer."""

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest
from control_plane._http.exchange import Give, Pause, Reply, Send, Steps, Stream
from control_plane._http.follower import Event, Follower, Line, Output, wait_for_end
from control_plane._http.requests import Request
from control_plane.errors import WaitTimeoutError
from control_plane.models import InvocationInfo, InvocationPath

from tests.support.sdk.gateway import INVOCATION

T = TypeVar("T")
Json = dict[str, Any]

PATH = InvocationPath(
    project_name="p", version_id="ver-1", function_name="f", invocation_id="inv-1"
)


def state(*executions: str, ended: bool = False) -> Json:
    """An invocation with executions; of each but the last one the worker has gone."""
    return {
        **INVOCATION,
        "phase": "SUCCEEDED" if ended else "RUNNING",
        "invocation_status": "TERMINATED" if ended else "RUNNING",
        "executions": [
            {
                "execution_id": name,
                "attempt": number,
                "worker_status": ("TERMINATED" if ended or number < len(executions) else "RUNNING"),
                "creation_time": 1,
                "last_update_time": 2,
            }
            for number, name in enumerate(executions, start=1)
        ],
    }


def page(*lines: str, after: str | None) -> Json:
    return {"log_lines": list(lines), "next_offset": after}


class Script:
    """Answers requests one after the other, and remembers them; nothing is sent, nobody sleeps."""

    def __init__(self, *answers: Json) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []
        self.pauses: list[float] = []
        self.waits: list[float] = []
        """Seconds that the server was asked to wait for the end, look by look."""

    def exchange(self, request: Request[T]) -> Steps[T]:
        yield Send(request)
        path = urlsplit(request.path).path
        is_log = path.endswith("/logs")
        self.asked.append(path.split("/")[-2] if is_log else "state")
        self.last_query = parse_qs(urlsplit(request.path).query)
        if not is_log:
            self.waits += map(float, self.last_query.get("wait", ()))
        answer = self._answers.pop(0)
        assert is_log == ("log_lines" in answer), "the script has another request in mind"
        return request.read(answer)

    def events(self, stream: Stream[Event]) -> list[str]:
        """Give what comes of it: lines with their attempt, states as their phase."""
        given: list[str] = []
        reply: Reply = None
        while True:
            try:
                step = stream.send(reply)
            except StopIteration:
                assert self._answers == []
                return given
            if isinstance(step, Pause):
                self.pauses.append(step.seconds)
            elif isinstance(step, Give):
                given.append(
                    f"{step.value.attempt}: {step.value.text}"
                    if isinstance(step.value, Line)
                    else step.value.phase
                )

    def result(self, steps: Steps[T]) -> T:
        while True:
            try:
                steps.send(None)
            except StopIteration as end:
                result: T = end.value
                return result


def test_states_are_given_once_and_the_last_one_after_the_last_line() -> None:
    script = Script(
        state(),
        state("exe-1"),
        page("a", after="1"),
        page(after="1"),
        state("exe-1"),
        page(after="1"),
        state("exe-1", ended=True),
        page("b", after="2"),
        page(after=None),
    )
    follower = Follower(script.exchange, PATH, output=Output())
    assert script.events(follower.events()) == [
        *("RUNNING", "RUNNING", "1: a"),
        *("1: b", "SUCCEEDED"),
    ]
    assert len(script.pauses) == 3


def test_the_lines_of_an_attempt_come_before_those_of_the_next_one() -> None:
    script = Script(
        state("exe-1"),
        page("a", after="1"),
        page(after="1"),
        state("exe-1", "exe-2"),
        page("b", after="2"),
        page(after=None),
        page("c", after="1"),
        page(after="1"),
        state("exe-1", "exe-2", ended=True),
        # The first one is over: it is not asked for again.
        page(after=None),
    )
    lines = script.events(Follower(script.exchange, PATH, output=Output()).events())
    assert [line for line in lines if ":" in line] == ["1: a", "1: b", "2: c"]


def test_what_one_execution_has_written_is_read_without_a_look_at_the_state() -> None:
    script = Script(page("a", "b", after="2"), page(after="2"))
    follower = Follower(script.exchange, PATH, output=Output(execution_id="exe-1"))
    assert script.events(follower.events(to_end=False)) == ["None: a", "None: b"]
    assert script.asked == ["exe-1", "exe-1"]


def test_one_execution_is_followed_to_its_own_end() -> None:
    script = Script(
        state("exe-1"),
        # There is no worker yet: neither a line nor an offset.
        page(after=None),
        state("exe-1", "exe-2"),
        page("a", after=None),
    )
    follower = Follower(script.exchange, PATH, output=Output(execution_id="exe-1"))
    assert script.events(follower.events())[-1] == "1: a"


def test_a_log_that_never_says_its_end_ends_with_its_execution() -> None:
    script = Script(state("exe-1", "exe-2"), page("a", after="1"), page(after="1"))
    follower = Follower(script.exchange, PATH, output=Output(execution_id="exe-1"))
    assert script.events(follower.events()) == ["RUNNING", "1: a"]


def test_one_execution_is_followed_beyond_the_end_of_its_invocation() -> None:
    ended: Json = state("exe-1", ended=True)
    (execution,) = ended["executions"]
    still_open = {**ended, "executions": [{**execution, "worker_status": "RUNNING"}]}
    answers = (
        *(page("a", after="1"), page(after="1"), still_open),
        *(page("b", after="2"), page(after="2"), ended),
        page(after="2"),
    )
    for known, first in ((None, (still_open,)), (InvocationInfo.read(still_open), ())):
        script = Script(*first, *answers)
        output = Output(execution_id="exe-1")
        events = Follower(script.exchange, PATH, output=output, known=known).events()
        assert script.events(events) == ["1: a", "1: b", "SUCCEEDED"]
        # The server answers at once, so the client waits.
        assert script.pauses[-1] == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize(
    ("output", "longest"), [(None, 1.0), (Output(), 0.5), (Output(execution_id="exe-1"), 0.5)]
)
def test_a_line_in_a_quiet_log_is_half_a_second_late_at_most(
    output: Output | None, longest: float
) -> None:
    quiet = [state("exe-1")] if output is None else [state("exe-1"), page(after="0")]
    last = [] if output is None else [page(after=None)]
    script = Script(*quiet * 9, state("exe-1", ended=True), *last)
    script.events(Follower(script.exchange, PATH, output=output).events())
    assert max(script.waits) == longest


def test_where_to_begin_is_for_the_first_page_of_the_first_execution() -> None:
    seen: list[Json] = []
    script = Script(
        state("exe-1", "exe-2", "exe-3", ended=True),
        *(page("a", after="1"), page(after=None), page("b", after=None)),
    )

    def exchange(request: Request[T]) -> Steps[T]:
        result = yield from script.exchange(request)
        seen.append(script.last_query)
        return result

    output = Output(first_attempt=2, tail=7, since=5.0)
    events = script.events(Follower(exchange, PATH, output=output).events())
    assert events == ["2: a", "3: b", "SUCCEEDED"]
    assert seen[1:] == [{"tail": ["7"], "since": ["5.0"]}, {"initial_offset": ["1"]}, {}]


def test_a_known_end_is_not_asked_for() -> None:
    known = InvocationInfo.read(state("exe-1", ended=True))
    script = Script(page("a", after=None))
    follower = Follower(script.exchange, PATH, output=Output(), known=known)
    assert script.events(follower.events()) == ["1: a", "SUCCEEDED"]


@pytest.mark.parametrize(
    "wait",
    [
        lambda script: script.events(Follower(script.exchange, PATH, timeout=0).events()),
        lambda script: script.result(wait_for_end(script.exchange, PATH, timeout=0)),
    ],
)
def test_waiting_ends_after_a_look_when_its_time_is_over(wait: Callable[[Script], object]) -> None:
    script = Script(state())
    with pytest.raises(WaitTimeoutError, match="inv-1 has not ended within 0 seconds; it is RUNN"):
        wait(script)
    assert script.asked == ["state"]


def test_an_end_is_waited_for() -> None:
    script = Script(state(), state(), state(ended=True))
    assert script.result(wait_for_end(script.exchange, PATH, timeout=None)).has_ended

"""What the runner does when the API is away, slow, or loses its answers."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from control_plane.runner.identity import Identity
from control_plane.runner.report import NoMoreReports, Report
from control_plane.runner.sigterm import Sigterm

from tests.support.sdk.peer import Fault, Peer
from tests.support.sdk.workers import StartWorker, environment_of

GENERATOR = """
def run():
    yield 1
    yield 2
"""


@pytest.mark.parametrize("verb", ["start", "update", "finish"])
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(status=503), id="503"),
        pytest.param(Fault(status=429), id="429"),
        pytest.param(Fault(drop_before=True), id="dropped request"),
        pytest.param(Fault(drop_after=True), id="lost response"),
    ],
)
def test_each_call_is_repeated_until_it_is_answered(
    verb: str, fault: Fault, peer: Peer, start_worker: StartWorker
) -> None:
    """A lost response is the case where the repeated call meets its own earlier work."""
    peer.faults[verb] = [fault]
    worker = start_worker(GENERATOR)

    assert worker.end() == 0, worker.output
    assert peer.finished is not None
    assert peer.finished["outcome"] == "SUCCEEDED"
    assert [value for value in peer.outputs if value == 2] == [2]
    assert "trying again" in worker.output
    assert peer.verbs.count(verb) == (3 if verb == "update" else 2)
    assert ("GET" in peer.verbs) == (verb == "start" and fault.drop_after)


def test_lost_answer_of_start_does_not_lose_the_input(
    peer: Peer, start_worker: StartWorker
) -> None:
    peer.input = '"from the second look"'
    peer.faults["start"] = [Fault(drop_after=True), Fault(status=500)]
    worker = start_worker("def run(text): return text")

    assert worker.end() == 0
    assert peer.verbs == ["start", "start", "start", "GET", "finish"]
    assert peer.finished is not None
    assert peer.finished["final_output"] == '"from the second look"'


def test_worker_waits_for_an_api_that_is_not_there_yet(start_worker: StartWorker) -> None:
    with Peer(listen=False) as late:
        worker = start_worker("def run(): return 1", environment=environment_of(late, "run"))
        worker.wait_for_output("trying again: ConnectionRefusedError")
        late.listen()

        assert worker.end() == 0
        assert late.verbs == ["start", "finish"]


def test_start_by_another_worker_ends_this_one_without_running_the_function(
    peer: Peer, start_worker: StartWorker
) -> None:
    peer.started = True
    worker = start_worker("def run(): print('must not run')")

    assert worker.end() == 3
    assert peer.verbs == ["start"]
    assert "another worker has already started this execution" in worker.output
    assert "must not run" not in worker.output


def test_429_is_no_earlier_try_of_our_own(peer: Peer, start_worker: StartWorker) -> None:
    """A refused request has not started the execution, so whoever did is another worker."""
    peer.started = True
    peer.faults["start"] = [Fault(status=429)]
    worker = start_worker("def run(): print('must not run')")

    assert worker.end() == 3
    assert "must not run" not in worker.output


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_execution_that_was_ended_from_outside_stops_the_function(
    kind: str, peer: Peer, start_worker: StartWorker
) -> None:
    peer.faults["update"] = [
        Fault(),
        Fault(status=409, detail="This execution has already terminated"),
    ]
    worker = start_worker(
        f"""
        {kind} run():
            try:
                for number in range(100):
                    yield number
            finally:
                print("cleaned up")
        """
    )

    assert worker.end() == 4
    assert peer.verbs == ["start", "update", "update"]
    assert "the API refused update: 409 This execution has already terminated" in worker.output
    assert "cleaned up" in worker.output


@pytest.mark.parametrize("verb", ["start", "finish"])
def test_terminated_at_start_or_finish_is_said_and_ends_the_worker(
    verb: str, peer: Peer, start_worker: StartWorker
) -> None:
    peer.faults[verb] = [Fault(status=409, detail="This execution has already terminated")]
    worker = start_worker("def run(): return 1")

    assert worker.end() == 4
    assert f"the API refused {verb}: 409" in worker.output


def test_finish_by_somebody_else_is_not_taken_for_ours(
    peer: Peer, start_worker: StartWorker
) -> None:
    peer.faults["finish"] = [Fault(status=409, detail="This execution has already finished")]
    worker = start_worker("def run(): return 1")

    assert worker.end() == 4


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusal_ends_the_worker_without_repetition(
    status: int, peer: Peer, start_worker: StartWorker
) -> None:
    peer.faults["start"] = [Fault(status=status, detail="no such thing")]
    worker = start_worker("def run(): return 1")

    assert worker.end() == 5
    assert peer.verbs == ["start"]
    assert f"the API refused start: {status} no such thing" in worker.output


def test_output_that_the_api_refuses_becomes_a_failure(
    peer: Peer, start_worker: StartWorker
) -> None:
    peer.refuse_finish = lambda body: "too odd" if body["final_output"] else None
    worker = start_worker("def run(): return 1")

    assert worker.end() == 1
    assert peer.finished is not None
    assert peer.finished["outcome"] == "FAILED"
    assert "too odd" in str(peer.finished["error_message"])


MakeReport = Callable[..., Report]


@pytest.fixture
def make_report(peer: Peer) -> Iterator[MakeReport]:
    """Make the runner's side of the conversation, in this process, with limits that suit a test."""
    reports = []

    def make(sigterm: Sigterm | None = None, **limits: float) -> Report:
        report = Report(Identity(environment_of(peer, "run")), sigterm or Sigterm(), **limits)
        reports.append(report)
        return report

    yield make
    for report in reports:
        report.close()


def test_silent_api_is_left_after_the_time_limit_of_a_try(
    peer: Peer, make_report: MakeReport
) -> None:
    never = threading.Event()
    peer.faults["start"] = [Fault(hold=never)]
    try:
        assert make_report(timeout=0.05).start() == "null"
    finally:
        never.set()
    assert peer.verbs == ["start", "start", "GET"]


def test_retry_after_is_respected(peer: Peer, make_report: MakeReport) -> None:
    peer.faults["start"] = [Fault(status=429, headers={"Retry-After": "1"})]
    make_report().start()

    first, second = peer.calls
    assert second.time - first.time >= 1.0


def test_patience_before_the_start_has_an_end(peer: Peer, make_report: MakeReport) -> None:
    peer.faults["start"] = [Fault(status=503, detail="away")] * 100
    report = make_report(patience=0.5, least_patience=0.0)

    with pytest.raises(NoMoreReports, match=r"did not take start in \d tries, the last: 503 away"):
        report.start()
    assert 2 <= len(peer.calls) <= 8


def test_patience_ends_after_the_deadline_of_the_invocation(
    peer: Peer, make_report: MakeReport
) -> None:
    peer.creation_time -= 10_000
    peer.faults["finish"] = [Fault(status=503)] * 100
    report = make_report(least_patience=0.3)
    report.start()

    with pytest.raises(NoMoreReports) as caught:
        report.finish("SUCCEEDED", final_output="1")
    assert caught.value.exit_code == 5


def test_update_is_left_out_after_a_signal_while_the_api_is_away(
    peer: Peer, make_report: MakeReport
) -> None:
    """Otherwise the function would be killed before it could clean up."""
    sigterm = Sigterm()
    report = make_report(sigterm)
    report.start()
    sigterm.arrived_at = time.time() - 4.9
    peer.faults["update"] = [Fault(status=503)] * 100

    report.update("1")

    assert 1 <= peer.verbs.count("update") <= 3
    assert sigterm.pending


def test_connection_that_the_api_has_closed_while_idle_is_replaced_unnoticed(
    peer: Peer, make_report: MakeReport, capfd: pytest.CaptureFixture[str]
) -> None:
    report = make_report()
    peer.faults["start"] = [Fault(headers={"Connection": "close"})]
    report.start()
    report.update("1")
    report.update("2")

    first, second, third = (call.connection for call in peer.calls)
    assert first != second == third
    assert "trying again" not in capfd.readouterr().err

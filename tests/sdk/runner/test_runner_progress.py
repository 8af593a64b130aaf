"""`current()`, `progress(...)` and `@function` inside of a worker."""

import threading
from datetime import UTC, datetime

import pytest

from tests.support.sdk.peer import Fault, Peer
from tests.support.sdk.workers import StartWorker


def outcome_of(peer: Peer) -> tuple[object, object]:
    assert peer.finished is not None, peer.calls
    return peer.finished["outcome"], peer.finished["final_output"] or peer.finished["error_message"]


def test_current_tells_which_call_this_is(peer: Peer, start_worker: StartWorker) -> None:
    peer.attempt = 3
    worker = start_worker(
        """
        from control_plane import NotInFunctionError, current
        try:
            current()
        except NotInFunctionError as error:
            print(error)
        def run():
            c = current()
            return [c.project, c.version, c.function, c.invocation_id, c.execution_id, c.attempt,
                    c.deadline.isoformat()]
        """
    )

    assert worker.end() == 0, worker.output
    deadline = datetime.fromtimestamp(peer.creation_time + 3600, UTC).isoformat()
    names = '["p 1", "ver-1", "run", "inv-1", "exe-1", 3, '
    assert outcome_of(peer) == ("SUCCEEDED", f'{names}"{deadline}"]')
    assert "there is no invocation here" in worker.output


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("body", ["return 1", "yield 1"])
@pytest.mark.parametrize("decorator", ["@function", "@function(cpu=2)"])
def test_decorated_functions_run_and_refuse_arguments_that_do_not_fit(
    kind: str, body: str, *, decorator: str, peer: Peer, start_worker: StartWorker
) -> None:
    code = f"""
        from control_plane import function
        {decorator}
        {kind} run(a):
            {body}
    """
    peer.input = '{"a": 1}'
    assert start_worker(code).end() == 0
    assert outcome_of(peer)[0] == "SUCCEEDED"

    peer.started, peer.finished, peer.input = False, None, '{"b": 1}'
    assert start_worker(code).end() == 1
    assert str(outcome_of(peer)[1]).startswith("InputError: The input does not fit the function")


def test_traceback_of_a_decorated_function_is_the_users_own(
    peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(
        """
        from control_plane import function
        @function
        def run(): raise ValueError("no")
        """
    )
    assert worker.end() == 1
    message = str(outcome_of(peer)[1])
    assert message.startswith("ValueError: no\n\nTraceback (most recent call last):\n")
    assert "control_plane" not in message


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_of_many_reports_a_few_are_sent_and_the_last_one_before_the_end(
    kind: str, peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(
        f"""
        from control_plane import progress
        {kind} run():
            for n in range(100_000):
                progress(n, 100_000, message="é", more=[n])
            progress(100_000)
        """
    )

    assert worker.end() == 0, worker.output
    assert outcome_of(peer)[0] == "SUCCEEDED"
    assert peer.reports[-1] == {"done": 100_000}
    assert set(peer.reports[0]) <= {"done", "total", "message", "more"}
    assert peer.verbs[-1] == "finish"
    # As often as the pauses allow, give or take; not a hundred thousand times.
    span = peer.calls[-1].time - peer.calls[0].time
    assert len(peer.reports) <= span / 0.25 + 3
    connections = {call.connection for call in peer.calls if call.verb == "progress"}
    assert len(connections) == 1
    assert connections.isdisjoint({c.connection for c in peer.calls if c.verb == "finish"})


def test_report_is_seen_while_the_function_runs_beside_its_updates(
    peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(
        """
        import time
        from control_plane import InvocationCancelled, progress
        def run():
            yield "output"
            try:
                progress(1, 2, note=None)
                time.sleep(3600)
            except InvocationCancelled:
                progress(message="cleaning up")
                raise
        """
    )
    peer.wait_for_calls("progress")
    assert peer.reports == [{"done": 1, "total": 2, "note": None}]
    assert peer.finished is None
    worker.sigterm()

    assert worker.end() == 143, worker.output
    assert peer.outputs == ["output"]
    assert peer.reports[-1] == {"message": "cleaning up"}
    assert outcome_of(peer)[0] == "ABORTED"


@pytest.mark.parametrize(
    "fault", [Fault(status=503), Fault(drop_before=True), Fault(status=429)], ids=str
)
def test_report_that_fails_is_repeated_and_fails_nothing(
    fault: Fault, peer: Peer, start_worker: StartWorker
) -> None:
    peer.faults["progress"] = [fault, fault]
    worker = start_worker(
        """
        from control_plane import progress
        def run():
            progress(1)
            return "fine"
        """
    )
    assert worker.end() == 0, worker.output
    assert peer.reports == [{"done": 1}] * 3
    assert outcome_of(peer) == ("SUCCEEDED", '"fine"')
    assert worker.output.count("a progress report waits") == 1


def test_server_that_wants_no_reports_gets_one_and_the_function_goes_on(
    peer: Peer, start_worker: StartWorker
) -> None:
    peer.faults["progress"] = [Fault(status=404, detail="Not Found")] * 5
    worker = start_worker(
        """
        import time
        from control_plane import progress
        def run():
            for n in range(5):
                progress(n)
                time.sleep(0.1)
        """
    )
    assert worker.end() == 0, worker.output
    assert outcome_of(peer)[0] == "SUCCEEDED"
    assert len(peer.reports) == 1
    assert "the API refused a progress report: 404 Not Found" in worker.output


def test_report_that_hangs_holds_the_end_up_for_a_few_seconds_only(
    peer: Peer, start_worker: StartWorker
) -> None:
    answer = threading.Event()
    peer.faults["progress"] = [Fault(hold=answer)]
    worker = start_worker(
        """
        from control_plane import progress
        def run(): progress(1)
        """
    )
    # The peer would answer after 15 seconds.
    peer.wait_for(lambda: peer.finished is not None, timeout=14)
    answer.set()
    assert worker.end() == 0


def test_report_that_is_no_json_or_too_long_is_left_out_and_said(
    peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(
        """
        from control_plane import progress
        def run():
            for _ in range(3):
                progress(x={1, 2})
                progress(float("nan"))
                progress(message="é" * 16_384)
            progress(message="é" * (16_384 - len('{"message":""}')))
            return "fine"
        """
    )
    assert worker.end() == 0, worker.output
    assert outcome_of(peer)[0] == "SUCCEEDED"
    assert [len(report["message"]) for report in peer.reports] == [16_370]
    assert worker.output.count("since it is not JSON") == 1
    assert worker.output.count("16,398 characters of JSON, where at most 16,384") == 1


def test_child_that_was_forked_reports_nothing(peer: Peer, start_worker: StartWorker) -> None:
    worker = start_worker(
        """
        import os
        from control_plane import progress
        def run():
            progress("parent")
            child = os.fork()
            if child == 0:
                progress("child")
                os._exit(0)
            os.waitpid(child, 0)
        """
    )
    assert worker.end() == 0, worker.output
    assert peer.reports == [{"done": "parent"}]

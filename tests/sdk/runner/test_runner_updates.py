"""A generator that yields more than can be reported."""

from pathlib import Path

import pytest

from tests.sdk.runner.test_runner_outcomes import finish_of
from tests.support.sdk.peer import Peer
from tests.support.sdk.workers import StartWorker


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_values_that_come_too_quickly_are_reported_now_and_then_and_the_last_one_always(
    kind: str, peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(f"{kind} run():\n    for n in range(50_000):\n        yield n\n")

    assert worker.end(timeout=60) == 0
    outputs = peer.outputs
    assert outputs[:100] == list(range(100)), "at first each one"
    assert len(outputs) < 1000
    assert outputs == sorted(outputs)
    assert outputs[-1] == 49_999
    assert peer.verbs[-2:] == ["update", "finish"]


def test_the_newest_value_is_reported_while_the_function_is_silent(
    peer: Peer, start_worker: StartWorker, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    worker = start_worker(
        f"""
        import pathlib, time

        def run():
            yield from range(1000)
            while not pathlib.Path({str(gate)!r}).exists():
                time.sleep(0.01)
        """
    )

    peer.wait_for(lambda: 999 in peer.outputs, timeout=60)
    gate.touch()
    assert worker.end(timeout=60) == 0
    assert peer.outputs.count(999) == 1


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_function_whose_execution_was_ended_stops_at_its_next_value(
    kind: str, peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(f"{kind} run():\n    while True:\n        yield 1\n")

    peer.wait_for_calls("update", 101)
    peer.terminated = True
    assert worker.end(timeout=60) == 4
    assert "finish" not in peer.verbs


def test_a_value_that_cannot_be_kept_fails_after_the_ones_before_it(
    peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker("def run():\n    yield from range(1000)\n    yield {1}\n")

    assert worker.end(timeout=60) == 1
    assert peer.outputs[-1] == 999
    message = str(finish_of(peer)["error_message"])
    assert message.startswith("OutputError: The yielded value number 1001")

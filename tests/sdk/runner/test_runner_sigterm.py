"""SIGTERM: how a function learns that it is to end, and what becomes of the execution then."""

import threading

import pytest

from tests.support.sdk.peer import Fault, Peer
from tests.support.sdk.workers import StartWorker

SLEEPS = """
    import asyncio, time
    from control_plane import Interrupted, InvocationCancelled, InvocationTimedOut
"""


def ending_of(peer: Peer) -> tuple[object, object, object]:
    assert peer.finished is not None
    return (
        peer.finished["outcome"],
        peer.finished["final_output"],
        str(peer.finished["error_message"]).split("\n", 1)[0],
    )


FUNCTIONS = [
    pytest.param("def", "time.sleep(3600)", id="sync"),
    pytest.param("async def", "await asyncio.sleep(3600)", id="async"),
]


@pytest.mark.parametrize(("kind", "wait"), FUNCTIONS)
def test_cl_4_value_yielded_in_cleanup_is_sent_and_the_outcome_is_aborted(
    kind: str, wait: str, peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(
        f"""{SLEEPS}
    {kind} run():
        try:
            yield "working"
            print("ready")
            {wait}
        except InvocationCancelled:
            yield "cleaned up"
        """
    )
    worker.wait_for_output("ready")
    worker.sigterm()

    assert worker.end() == 143
    assert peer.outputs == ["working", "cleaned up"]
    assert ending_of(peer) == ("ABORTED", None, "None")


@pytest.mark.parametrize(("kind", "wait"), FUNCTIONS)
def test_cl_5_uncaught_interruption_is_aborted_and_stands_in_the_log(
    kind: str, wait: str, peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(
        f"""{SLEEPS}
    {kind} run():
        try:
            print("ready")
            {wait}
        except Exception:
            print("must not be caught")
        """
    )
    worker.wait_for_output("ready")
    worker.sigterm()

    assert worker.end() == 143
    assert peer.verbs == ["start", "finish"]
    assert ending_of(peer) == ("ABORTED", None, "None")
    # Once: the name and its text are all that a traceback would add.
    assert worker.output.count("InvocationCancelled: the invocation was cancelled") == 1
    assert "must not be caught" not in worker.output


@pytest.mark.parametrize(("kind", "wait"), FUNCTIONS)
def test_cl_6_cleanup_that_raises_has_failed(
    kind: str, wait: str, peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(
        f"""{SLEEPS}
    {kind} run():
        try:
            yield "working"
            print("ready")
            {wait}
        except Interrupted:
            yield "cleaning"
            raise OSError("cannot clean")
        """
    )
    worker.wait_for_output("ready")
    worker.sigterm()

    assert worker.end() == 1
    assert peer.outputs == ["working", "cleaning"]
    assert ending_of(peer) == ("FAILED", None, "OSError: cannot clean")


@pytest.mark.parametrize(("kind", "wait"), FUNCTIONS)
@pytest.mark.parametrize("name", ["InvocationTimedOut", "InvocationCancelled"])
def test_function_that_returns_after_the_signal_is_aborted_with_its_output(
    kind: str, wait: str, *, name: str, peer: Peer, start_worker: StartWorker
) -> None:
    peer.creation_time -= 3700 if name == "InvocationTimedOut" else 3000
    worker = start_worker(
        f"""{SLEEPS}
    {kind} run():
        try:
            print("ready")
            {wait}
        except Interrupted as interruption:
            return type(interruption).__name__
        """
    )
    worker.wait_for_output("ready")
    worker.sigterm()

    assert worker.end() == 143
    assert ending_of(peer) == ("ABORTED", f'"{name}"', "None")


@pytest.mark.parametrize(("kind", "wait"), FUNCTIONS)
def test_only_the_first_signal_is_raised(
    kind: str, wait: str, peer: Peer, start_worker: StartWorker
) -> None:
    cleaning = "time.sleep(0.2)" if kind == "def" else "await asyncio.sleep(0.2)"
    worker = start_worker(
        f"""{SLEEPS}
    {kind} run():
        try:
            print("ready")
            {wait}
        except Interrupted:
            print("cleaning")
            {cleaning}
            return "undisturbed"
        """
    )
    worker.wait_for_output("ready")
    worker.sigterm()
    worker.wait_for_output("cleaning")
    worker.sigterm()

    assert worker.end() == 143
    assert ending_of(peer) == ("ABORTED", '"undisturbed"', "None")


@pytest.mark.parametrize(("kind", "wait"), FUNCTIONS)
def test_signal_during_an_update_is_thrown_in_at_the_next_step(
    kind: str, wait: str, peer: Peer, start_worker: StartWorker
) -> None:
    answer = threading.Event()
    peer.faults["update"] = [Fault(hold=answer)]
    worker = start_worker(
        f"""{SLEEPS}
    {kind} run():
        try:
            yield "held"
            print("must not be reached")
            {wait}
        except Interrupted:
            yield "cleaned up"
        """
    )
    peer.wait_for_calls("update")
    worker.sigterm()
    # A second signal that is handled after the first proves that the first did not break the call.
    worker.sigterm()
    assert worker.process.poll() is None
    answer.set()

    assert worker.end() == 143
    assert peer.outputs == ["held", "cleaned up"]
    assert ending_of(peer) == ("ABORTED", None, "None")
    assert "must not be reached" not in worker.output


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_signal_during_start_aborts_without_running_the_function(
    kind: str, peer: Peer, start_worker: StartWorker
) -> None:
    answer = threading.Event()
    peer.faults["start"] = [Fault(hold=answer)]
    worker = start_worker(f"{kind} run(): print('must not run')")
    peer.wait_for_calls("start")
    worker.sigterm()
    answer.set()

    assert worker.end() == 143
    assert peer.verbs == ["start", "finish"]
    assert ending_of(peer) == ("ABORTED", None, "None")
    assert "must not run" not in worker.output


def test_signal_during_the_import_is_started_and_aborted(
    peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker("import time\nprint('importing')\ntime.sleep(3600)\ndef run(): ...")
    worker.wait_for_output("importing")
    worker.sigterm()

    assert worker.end() == 143
    assert peer.verbs == ["start", "finish"]
    assert ending_of(peer) == ("ABORTED", None, "None")


def test_signal_during_finish_changes_nothing(peer: Peer, start_worker: StartWorker) -> None:
    answer = threading.Event()
    peer.faults["finish"] = [Fault(hold=answer)]
    worker = start_worker("def run(): return 1")
    peer.wait_for_calls("finish")
    worker.sigterm()
    answer.set()

    assert worker.end() == 0
    assert ending_of(peer) == ("SUCCEEDED", "1", "None")


def test_async_function_gets_the_exception_also_through_swallowed_cancellations(
    peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(
        f"""{SLEEPS}
    async def stubborn():
        try:
            print("ready")
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            print("child cancelled")

    async def run():
        try:
            await asyncio.create_task(stubborn())
            print("must not be reached")
        except InvocationCancelled:
            await asyncio.sleep(0)
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
            return "cleaned up"
        """
    )
    worker.wait_for_output("ready")
    worker.sigterm()

    assert worker.end() == 143
    assert ending_of(peer) == ("ABORTED", '"cleaned up"', "None")
    assert "child cancelled" in worker.output
    assert "must not be reached" not in worker.output


def test_interruption_that_leaves_a_task_group_is_an_interruption(
    peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(
        f"""{SLEEPS}
    async def run():
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(3600))
            print("ready")
            await asyncio.sleep(3600)
        """
    )
    worker.wait_for_output("ready")
    worker.sigterm()

    assert worker.end() == 143
    assert ending_of(peer) == ("ABORTED", None, "None")


def test_processes_of_the_user_die_of_a_signal_as_they_always_do(
    peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(
        """
        import multiprocessing, time
        def run():
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,))
            child.start()
            child.terminate()
            child.join()
            return child.exitcode
        """
    )

    assert worker.end() == 0
    assert ending_of(peer) == ("SUCCEEDED", "-15", "None")


def test_signal_at_the_very_beginning_of_a_function_is_not_missed(
    peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(
        """
        import os, signal
        from control_plane import Interrupted
        def run():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                for _ in range(1000):
                    pass
            except Interrupted:
                yield "seen"
        """
    )

    assert worker.end() == 143
    assert peer.outputs == ["seen"]

"""The control plane's own processes are killed, stopped and started again while functions run."""

import json
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from core.settings import RegistrySettings
from tests.support.folders import open_to_all
from tests.support.harness import function_spec
from tests.support.servers import Addresses
from tests.support.stack.caller import Invocation
from tests.support.stack.processes import (
    processes_that_mention,
    until_no_process_mentions,
    wait_for,
)
from tests.support.stack.rolling import Client, Pairs, load
from tests.support.stack.stack import API_KEY, PROJECT, Stack, environment_for

log = logging.getLogger(__name__)
"""Measured times: `pytest -o log_cli=true --log-cli-level=INFO` shows them."""

ROUNDS = int(os.environ.get("CONTROL_PLANE_ROLLING_ROUNDS", "1"))
"""How often the rolling restart goes round."""


class Marks:
    """What the function `mark` leaves behind: a line for each of its starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "marks"
        self.folder.mkdir()
        open_to_all(self.folder)

    def count(self) -> int:
        return len(list(self.folder.iterdir()))

    def of(self, call: Invocation) -> list[str]:
        return (self.folder / call.id).read_text().splitlines()


@pytest.fixture
def marks(tmp_path: Path) -> Marks:
    return Marks(tmp_path)


def invoke_marks(stack: Stack, marks: Marks, gate: Path, *, count: int) -> list[Invocation]:
    # Retries are allowed, so that a second start would show.
    spec = function_spec("mark", retries=3, timeout=600)
    version = stack.caller.deploy(PROJECT, spec)
    argument = {"folder": str(marks.folder), "gate": str(gate)}
    return [version.invoke("mark", argument) for _ in range(count)]


@pytest.fixture
def pairs(
    servers: Addresses, registry_settings: RegistrySettings, tmp_path: Path
) -> Iterator[Pairs]:
    running = Pairs(tmp_path, environment_for(registry_settings, servers))
    yield running
    running.close()


def assert_each_ran_once(calls: list[Invocation], marks: Marks) -> None:
    for call in calls:
        execution_id = call.result()
        (execution,) = call.get()["executions"]
        assert marks.of(call) == [execution_id] == [execution["execution_id"]]
        # The runner's own lines tell of an API that was away.
        lines = [line for line in call.lines(execution) if not line.startswith("control-plane: ")]
        assert lines == ["started", "ended"]


def test_kill_9_of_the_temporal_worker_neither_loses_nor_doubles_an_execution(
    own_stack: Stack, marks: Marks, gate: Path
) -> None:
    """Once while some of 20 workers are being started, and once while all run."""
    calls = invoke_marks(own_stack, marks, gate, count=20)
    wait_for(marks.count, lambda count: count >= 3)
    own_stack.temporal_worker.kill()
    own_stack.start_temporal_worker()
    wait_for(marks.count, lambda count: count == 20, seconds=60)

    own_stack.temporal_worker.kill()

    killed_at = time.monotonic()
    gate.touch()
    own_stack.start_temporal_worker()
    own_stack.until_ready()
    log.info("restart %.2f s", time.monotonic() - killed_at)
    for call in calls:
        call.until_over(seconds=60)
    log.info("all recovered after %.2f s", time.monotonic() - killed_at)
    assert_each_ran_once(calls, marks)
    until_no_process_mentions(own_stack.workers)


def test_kill_9_of_the_api_loses_no_report(own_stack: Stack, marks: Marks, gate: Path) -> None:
    calls = invoke_marks(own_stack, marks, gate, count=4)
    for call in calls:
        call.until_started()

    own_stack.api.kill()

    with socket.create_server(("127.0.0.1", own_stack.port)) as deaf:
        deaf.settimeout(20)
        gate.touch()
        # Each runner reports its end, and somebody hangs up on it.
        for _ in calls:
            deaf.accept()[0].close()
    own_stack.start_api()
    own_stack.until_ready()
    assert_each_ran_once(calls, marks)
    until_no_process_mentions(own_stack.workers)


def test_sigterm_of_the_temporal_worker_leaves_its_functions_running(
    own_stack: Stack, marks: Marks, gate: Path
) -> None:
    (call,) = invoke_marks(own_stack, marks, gate, count=1)
    execution = call.until_started()
    program = own_stack.started(execution["execution_id"]).program

    told_at = time.monotonic()
    own_stack.temporal_worker.send(signal.SIGTERM)

    assert own_stack.temporal_worker.wait(seconds=40) == 0
    log.info("stopped after %.2f s", time.monotonic() - told_at)
    assert "Traceback" not in own_stack.temporal_worker.stderr
    assert program.pid in processes_that_mention(own_stack.state_folder)
    # It ends while nobody watches.
    gate.touch()
    call.until(lambda s: s["executions"][0]["outcome"] == "SUCCEEDED")
    own_stack.start_temporal_worker()
    assert_each_ran_once([call], marks)


@pytest.mark.timeout(300)
def test_a_rolling_restart_under_load_fails_no_call_and_doubles_no_execution(
    pairs: Pairs, marks: Marks, gate: Path
) -> None:
    """Clients repeat a call only if they may not connect."""
    calls = invoke_marks(pairs, marks, gate, count=3)
    for call in calls:
        call.until_started()
    collection = calls[0].path.rpartition("/")[0]
    # For these the gate is open.
    body = {"input": json.dumps({"folder": str(marks.folder), "gate": str(marks.folder)})}

    def invoke_and_wait(client: Client) -> None:
        invocation_id = client.call("POST", collection, json=body)["invocation_id"]
        calls.append(Invocation(pairs.caller, collection, invocation_id))
        client.result(f"{collection}/{invocation_id}")

    def read(client: Client) -> None:
        client.call("GET", collection, params={"max_results": 1})

    with load() as clients:
        for step, keep_alive in product((invoke_and_wait, read), (True, False)):
            for _ in range(2):
                clients.add(Client(pairs.urls, API_KEY, keep_alive=keep_alive), step)
        for number in range(2 * ROUNDS):
            pairs.restart(number % 2)

    log.info("%s, among them %d invocations", dict(clients.calls), len(calls))
    assert clients.errors == []
    assert clients.calls["refused"] > 0
    gate.touch()
    touched_at = time.monotonic()
    for call in calls[:3]:
        call.until_over()
    log.info("those that ran all the time were over after %.2f s", time.monotonic() - touched_at)
    assert_each_ran_once(calls, marks)
    until_no_process_mentions(pairs.workers)

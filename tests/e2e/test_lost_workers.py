"""Workers that end without a word, or do not want to."""

import logging
import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.harness import function_spec
from tests.support.stack.processes import Json, processes_that_mention, wait_for
from tests.support.stack.stack import PROJECT, Stack

log = logging.getLogger(__name__)
"""Measured times: `pytest -o log_cli=true --log-cli-level=INFO` shows them."""

NOTICED_WITHIN_SECONDS = 2.0


@pytest.mark.parametrize("victim", ["program", "shim"])
def test_a_killed_worker_is_noticed_at_once_and_retried(
    stack: Stack, tmp_path: Path, victim: str
) -> None:
    version = stack.caller.deploy(PROJECT, function_spec("first_time_wait", retries=1))
    call = version.invoke("first_time_wait", str(tmp_path / "counter"))
    first = call.until_started()
    wait_for((tmp_path / "counter").exists)
    started = stack.started(first["execution_id"])
    pids = {"program": started.program.pid, "shim": started.shim.pid}

    os.kill(pids[victim], signal.SIGKILL)

    killed_at = time.monotonic()
    call.until(lambda s: s["executions"][0]["worker_status"] == "TERMINATED")
    noticed = time.monotonic() - killed_at
    log.info("noticed after %.2f s", noticed)
    assert noticed < NOTICED_WITHIN_SECONDS
    assert call.result() == "second execution"
    lost, second = call.get()["executions"]
    assert (lost["outcome"], lost["cause"]) == (None, "worker_lost")
    assert second["outcome"] == "SUCCEEDED"
    if victim == "program":
        assert lost["worker"]["exit_code"] == 128 + signal.SIGKILL
        assert "killed by signal 9" in lost["error_message"]
    folder = stack.worker_folder(first["execution_id"]).path
    assert processes_that_mention(folder) == {}


def test_a_worker_that_ends_without_reporting_leaves_its_exit_code(stack: Stack) -> None:
    version = stack.caller.deploy(PROJECT, function_spec("exit_at_once"))
    over = version.invoke("exit_at_once", 3).until_over()
    (execution,) = over["executions"]
    assert over["phase"] == "FAILED"
    assert (execution["outcome"], execution["cause"]) == (None, "worker_lost")
    assert execution["worker"]["exit_code"] == 3
    assert "exit code 3" in execution["error_message"]


def test_running_out_of_memory_is_told(stack: Stack) -> None:
    """By the kernel's count where there are cgroups; else as the MemoryError of the function."""
    ready: Json = stack.temporal_worker.event("process_provisioner_ready")
    version = stack.caller.deploy(PROJECT, function_spec("eat"))
    over = version.invoke("eat", 1.0).until_over()
    (execution,) = over["executions"]
    assert over["phase"] == "FAILED"
    if ready["memory_limit"].startswith("RLIMIT_DATA"):
        assert execution["cause"] == "user_error"
        assert "MemoryError" in execution["error_message"]
    else:
        assert (execution["outcome"], execution["cause"]) == (None, "out_of_memory")
        assert "memory limit" in execution["error_message"]


def test_a_worker_that_ignores_sigterm_is_killed_after_the_grace(
    stack: Stack, tmp_path: Path
) -> None:
    version = stack.caller.deploy(PROJECT, function_spec("stubborn"))
    ready = tmp_path / "ready"
    call = version.invoke("stubborn", str(ready))
    wait_for(ready.exists)

    call.cancel()

    asked_at = time.monotonic()
    over = call.until_over()
    # It would run on for ever if the grace did not end.
    assert time.monotonic() - asked_at >= 1.0
    (execution,) = over["executions"]
    assert over["phase"] == "CANCELLED"
    assert (execution["outcome"], execution["cause"]) == (None, "cancelled")
    assert execution["worker"]["exit_code"] == 128 + signal.SIGKILL
    assert processes_that_mention(stack.worker_folder(execution["execution_id"]).path) == {}

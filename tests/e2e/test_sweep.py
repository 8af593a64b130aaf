"""Calls that were accepted, and whose workflows nobody has started: the sweep starts them."""

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from core.settings import RegistrySettings
from core.temporal.client import SEARCH_ATTRIBUTES
from standalone.temporal.open_server import OpenTemporal
from tests.support.harness import function_spec
from tests.support.ports import free_port
from tests.support.servers import Addresses, connect
from tests.support.stack.caller import Invocation, Version
from tests.support.stack.processes import until_no_process_mentions, wait_for
from tests.support.stack.stack import PROJECT, Stack, environment_for

GREETING = "Hello, world!"


def invocations_in(settings: RegistrySettings) -> list[str]:
    """Name the invocations that are committed, oldest first."""
    with connect(settings, database=settings.postgres_db) as connection:
        rows = connection.execute("SELECT id FROM invocations ORDER BY id").fetchall()
    return [invocation_id for (invocation_id,) in rows]


def run_while_temporal_hangs(version: Version, temporal: OpenTemporal) -> None:
    """Everything is accepted and read, and done when it is back."""
    assert temporal.pid is not None
    os.kill(temporal.pid, signal.SIGSTOP)
    try:
        wanted, unwanted = version.invoke("greet"), version.invoke("greet")
        unwanted.cancel()
        assert wanted.get()["phase"] == "QUEUED"
    finally:
        os.kill(temporal.pid, signal.SIGCONT)
    assert wanted.until_over(seconds=90)["phase"] == "SUCCEEDED"
    assert unwanted.until_over(seconds=90)["phase"] == "CANCELLED"


@pytest.mark.timeout(400)
def test_calls_without_a_workflow_run_when_temporal_is_back(
    servers: Addresses, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """One was accepted while Temporal was away; one when the API was killed before the start.

    Some were accepted before that, while it hung.
    """
    port = free_port()

    def temporal() -> OpenTemporal:
        return OpenTemporal(
            tmp_path / "temporal", ui=False, port=port, search_attributes=SEARCH_ATTRIBUTES
        )

    first_life = temporal()
    with first_life:
        environment = {
            **environment_for(registry_settings, servers),
            "TEMPORAL_ADDRESS": first_life.address,
            "SWEEP_INTERVAL_SECONDS": "1",
        }
        stack = Stack(tmp_path, environment)
        try:
            version = stack.caller.deploy(PROJECT, function_spec("greet", timeout=600))
            assert version.invoke("greet").result() == GREETING
            run_while_temporal_hangs(version, first_life)
        except BaseException:
            stack.close()
            raise
    try:
        accepted = version.invoke("greet")
        assert accepted.get()["phase"] == "QUEUED"
        path = f"{version.path}/functions/greet/invocations"

        def post() -> None:
            with (
                httpx.Client(
                    base_url=stack.caller.http.base_url, headers=stack.caller.http.headers
                ) as http,
                suppress(httpx.TransportError),
            ):
                http.post(path, json={"input": "null"}, timeout=30)

        # The API commits, and then tries for some seconds to start the workflow.
        caller = threading.Thread(target=post)
        caller.start()
        ids = wait_for(lambda: invocations_in(registry_settings), lambda seen: len(seen) == 5)
        stack.api.kill()
        caller.join()
        stack.start_api()
        stack.api.event("api_listening")
        unanswered = Invocation(stack.caller, path, ids[-1])
        with temporal():
            for call in (accepted, unanswered):
                call.until_over(seconds=90)
                assert call.result() == GREETING
            until_no_process_mentions(stack.workers)
    finally:
        stack.close()

"""Functions whose workers come from a provisioner server: the example, as a real process."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from core.settings import RegistrySettings
from tests.support.folders import open_to_all
from tests.support.harness import function_spec
from tests.support.provisioners.example_server import KEY, ExampleServer
from tests.support.provisioners.http_peer import Answer, Call, HttpPeer, forwarding_to
from tests.support.servers import TEMPLATE_DATABASE, Addresses, fresh_database
from tests.support.stack.caller import Version
from tests.support.stack.processes import wait_for
from tests.support.stack.stack import PROJECT, Stack, environment_for


class ExternalStack(Stack):
    """API and Temporal worker, before a provisioner server."""

    provisioner = "external"

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        server: ExampleServer,
        *,
        url: str | None = None,
    ) -> None:
        self.server = server
        external = {
            "PROVISIONER_API_URL": url or server.url,
            "PROVISIONER_API_KEY": KEY,
            "PROVISIONER_POLL_SECONDS": "0.2",
            "PROVISIONER_LOG_PATIENCE_SECONDS": "5",
        }
        super().__init__(folder, environment | external)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleServer]:
    server = ExampleServer(open_to_all(tmp_path_factory.mktemp("external")))
    yield server
    server.close()


@pytest.fixture(scope="module")
def external(
    servers: Addresses, server: ExampleServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ExternalStack]:
    with fresh_database(servers, template=TEMPLATE_DATABASE) as settings:
        folder = open_to_all(tmp_path_factory.mktemp("stack"))
        stack = ExternalStack(folder, environment_for(settings, servers), server)
        yield stack
        stack.close()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ExampleServer]:
    """A provisioner server that a test may kill."""
    server = ExampleServer(tmp_path)
    yield server
    server.close()


@pytest.fixture
def own_external(
    servers: Addresses,
    registry_settings: RegistrySettings,
    own_server: ExampleServer,
    tmp_path: Path,
) -> Iterator[ExternalStack]:
    stack = ExternalStack(tmp_path, environment_for(registry_settings, servers), own_server)
    yield stack
    stack.close()


def deploy(stack: Stack, name: str, *, retries: int = 0, timeout: int = 120) -> Version:
    return stack.caller.deploy(PROJECT, function_spec(name, retries=retries, timeout=timeout))


def test_a_function_succeeds(external: ExternalStack) -> None:
    version = deploy(external, "greet")
    call = version.invoke("greet", {"name": "Ada"})

    assert call.result() == "Hello, Ada!"

    seen = call.get()
    (execution,) = seen["executions"]
    assert (execution["outcome"], execution["worker_status"]) == ("SUCCEEDED", "TERMINATED")
    name = execution["execution_id"]
    assert execution["worker_details"] == {
        "type": "TEST",
        "identifier": name,
        "logs_identifier": name,
    }
    assert (execution["worker"]["provisioner"], execution["worker"]["id"]) == ("external", name)
    assert seen["function_status"] == "READY"
    assert seen["prepared_function_details"] == {"type": "TEST", "identifier": PROJECT.as_uri()}


def test_a_failure_is_retried(external: ExternalStack, tmp_path: Path) -> None:
    version = deploy(external, "flaky", retries=3)
    call = version.invoke("flaky", str(tmp_path / "counter"))

    assert call.result() == "attempt 3"

    outcomes = [execution["outcome"] for execution in call.get()["executions"]]
    assert outcomes == ["FAILED", "FAILED", "SUCCEEDED"]


def test_logs_can_be_read_during_and_after(external: ExternalStack, gate: Path) -> None:
    call = deploy(external, "talk").invoke("talk", str(gate))
    execution = call.until_started()

    wait_for(lambda: call.lines(execution), lambda lines: lines == ["before the gate"])
    gate.touch()
    call.until_over()

    assert call.lines(execution) == ["before the gate", "after the gate"]


def test_a_long_log_is_complete(external: ExternalStack, tmp_path: Path) -> None:
    project = tmp_path / "loud"
    project.mkdir()
    (project / "main.py").write_text("def loud():\n    for i in range(2000):\n        print(i)\n")
    call = external.caller.deploy(project, function_spec("loud")).invoke("loud")
    call.until_over()
    (execution,) = call.get()["executions"]
    lines: list[str] = []
    while len(lines) < 2000:
        path = f"{call.execution_path(execution)}/logs"
        page = external.caller.call("GET", path, params={"initial_offset": str(len(lines))})
        assert page["log_lines"]
        lines += page["log_lines"]
    assert lines == [str(i) for i in range(2000)]


def test_a_cancel_reaches_the_worker(external: ExternalStack, tmp_path: Path) -> None:
    cleaned_up = tmp_path / "cleaned-up"
    call = deploy(external, "until_told_to_stop").invoke("until_told_to_stop", str(cleaned_up))
    execution = call.until_started()
    wait_for(lambda: call.lines(execution), lambda lines: lines == ["running"])

    call.cancel()

    over = call.until_over()
    (execution,) = over["executions"]
    assert (over["phase"], execution["outcome"]) == ("CANCELLED", "ABORTED")
    assert cleaned_up.read_text() == "InvocationCancelled"
    assert not external.server.runs(execution["execution_id"])


def test_a_killed_worker_is_noticed_and_retried(external: ExternalStack, tmp_path: Path) -> None:
    version = deploy(external, "first_time_wait", retries=1)
    call = version.invoke("first_time_wait", str(tmp_path / "counter"))
    first = call.until_started()
    wait_for((tmp_path / "counter").exists)

    os.kill(external.server.pid(first["execution_id"]), signal.SIGKILL)

    assert call.result() == "second execution"
    lost, _ = call.get()["executions"]
    assert (lost["outcome"], lost["cause"]) == (None, "worker_lost")
    assert "the external provisioner says that it has ended" in lost["error_message"]


def test_what_cannot_be_prepared_fails_with_the_servers_words(
    external: ExternalStack, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    over = external.caller.deploy(missing, function_spec("f")).invoke("f").until_over()

    assert over["phase"] == "FAILED"
    told = over["executions"][0]["error_message"]
    refused = "The provisioner has refused /prepare (Status code: 400): "
    assert told == f"{refused}The folder {missing} does not exist"


def test_while_the_server_is_away_a_cancel_waits_and_says_why(
    own_external: ExternalStack, tmp_path: Path
) -> None:
    cleaned_up = tmp_path / "cleaned-up"
    version = deploy(own_external, "until_told_to_stop")
    call = version.invoke("until_told_to_stop", str(cleaned_up))
    execution = call.until_started()
    wait_for(lambda: call.lines(execution), lambda lines: lines == ["running"])
    own_external.server.kill()

    call.cancel()

    seen = call.until(lambda seen: "could not be ended" in (seen["phase_detail"] or ""))
    assert (seen["phase"], seen["invocation_status"]) == ("CANCELLING", "RUNNING")
    assert seen["phase_detail"].startswith(
        "cancellation was requested; waiting until the worker is gone; it could not be ended so "
        "far: The provisioner cannot be asked /terminate: ConnectError"
    )
    assert own_external.server.runs(execution["execution_id"])
    own_external.server.start()
    over = call.until_over(seconds=60)
    assert over["phase"] == "CANCELLED"
    assert "could not be ended" not in over["phase_detail"]
    assert cleaned_up.exists()


def test_a_server_that_restarts_disturbs_nobody(own_external: ExternalStack, gate: Path) -> None:
    call = deploy(own_external, "talk").invoke("talk", str(gate))
    execution = call.until_started()
    own_external.server.kill()
    gate.touch()
    call.until(lambda seen: seen["executions"][0]["outcome"] == "SUCCEEDED")
    assert call.get()["invocation_status"] == "RUNNING"

    own_external.server.start()

    call.until_over(seconds=60)
    assert call.lines(execution) == ["before the gate", "after the gate"]


class LosesAnswers:
    """Stands before the server; the answers of `/provision` wait in it."""

    def __init__(self, server: ExampleServer) -> None:
        self.may_answer = Event()
        self._forward = forwarding_to(server.url)

    def __call__(self, call: Call) -> Answer:
        answer = self._forward(call)
        if call.verb != "provision":
            return answer
        return Answer(status=answer.status, raw=answer.raw, hold=self.may_answer)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_crash_before_the_worker_is_recorded_doubles_nothing_and_leaves_nothing(
    servers: Addresses,
    registry_settings: RegistrySettings,
    own_server: ExampleServer,
    tmp_path: Path,
    gate: Path,
    *,
    cancelled: bool,
) -> None:
    """The server has made the worker, and the Temporal worker dies before it hears of it."""
    marks = tmp_path / "marks"
    marks.mkdir()
    open_to_all(marks)
    loses = LosesAnswers(own_server)
    with HttpPeer(loses) as peer:
        environment = environment_for(registry_settings, servers)
        stack = ExternalStack(tmp_path, environment, own_server, url=peer.url)
        try:
            version = deploy(stack, "mark", retries=3)
            call = version.invoke("mark", {"folder": str(marks), "gate": str(gate)})
            # The worker runs and reports, and nobody knows its name yet.
            execution = call.until_started()
            assert execution["worker_status"] == "PROVISIONING"
            stack.temporal_worker.kill()
            if cancelled:
                call.cancel()
            loses.may_answer.set()
            stack.start_temporal_worker()

            if cancelled:
                over = call.until_over(seconds=60)
                assert over["phase"] == "CANCELLED"
            else:
                wait_for(lambda: call.get()["executions"][0]["worker_status"] == "RUNNING")
                gate.touch()
                assert call.result() == execution["execution_id"]
            assert (marks / call.id).read_text().split() == [execution["execution_id"]]
            assert len(call.get()["executions"]) == 1
            assert not own_server.runs(execution["execution_id"])
            asked = {made.body["execution_id"] for made in peer.calls_of("provision")}
            keys = {made.headers["idempotency-key"] for made in peer.calls_of("provision")}
            assert asked == {execution["execution_id"]}
            assert keys == {f"{execution['execution_id']}-provision"}
            assert peer.count("provision") >= 2
        finally:
            loses.may_answer.set()
            stack.close()

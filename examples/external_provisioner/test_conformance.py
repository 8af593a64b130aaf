"""Does a provisioner server keep the protocol? Point these tests at it:

    PROVISIONER_API_URL=http://localhost:5001 PROVISIONER_API_KEY=lemonandherb \\
        pytest examples/external_provisioner/test_conformance.py

They need pytest and httpx, and an image whose program is conformance_worker/worker.sh, with the
variable CONTROL_PLANE_FUNCTION_NAME (or FUNCTION_NAME) set as your server does it. Further
variables:

    CONFORMANCE_IMAGE            its docker image; default: the folder beside this file, as a
                                 file:// address
    CONFORMANCE_MISSING_IMAGE    an image that cannot be prepared; default: a folder that is missing
    CONFORMANCE_SECONDS          how long a worker may take to start or to stop; default: 60

Each test makes executions of its own, and ends them.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

HERE = Path(__file__).resolve().parent
SECONDS = float(os.environ.get("CONFORMANCE_SECONDS", "60"))
IMAGE = os.environ.get("CONFORMANCE_IMAGE", (HERE / "conformance_worker").as_uri())
MISSING_IMAGE = os.environ.get("CONFORMANCE_MISSING_IMAGE", (HERE / "missing").as_uri())
VERBS = ["prepare", "provision", "terminate", "check_status", "get_logs"]

Json = dict[str, Any]


class Server:
    """The server under test, asked as control-plane asks it."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self.version_id = f"ver-{uuid.uuid4().hex}"
        self.started: list[Json] = []

    def ask(self, verb: str, body: Json, *, key: str | None = None) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.http.post(f"/{verb}", json=body, headers=headers)

    def answer(self, verb: str, body: Json, *, key: str | None = None) -> Json:
        response = self.ask(verb, body, key=key)
        assert 200 <= response.status_code < 300, f"/{verb}: {response.status_code} {response.text}"
        answer = response.json()
        assert isinstance(answer, dict), f"/{verb} must answer with a JSON object"
        return answer

    def function(self, name: str, *, image: str = IMAGE) -> Json:
        return {
            "project_name": "conformance",
            "version_id": self.version_id,
            "function_name": name,
            "docker_image": image,
            "resource_spec": {"virtual_cpus": 0.25, "memory_gbs": 0.5, "max_concurrency": 2},
        }

    def prepare(self, name: str) -> Json:
        answer = self.answer("prepare", self.function(name))
        prepared: Json = answer["prepared_function_details"]
        return prepared

    def request(self, name: str) -> Json:
        """A new execution."""
        body = self.function(name)
        body.pop("docker_image")
        execution_id = f"exe-{uuid.uuid4().hex}"
        return {
            **body,
            "invocation_id": f"inv-{uuid.uuid4().hex}",
            "execution_id": execution_id,
            "prepared_function_details": self.prepare(name),
            "environment": {
                "CONTROL_PLANE_FUNCTION_NAME": name,
                "CONTROL_PLANE_EXECUTION_ID": execution_id,
            },
        }

    def provision(self, request: Json) -> Json:
        key = f"{request['execution_id']}-provision"
        details: Json = self.answer("provision", request, key=key)["worker_details"]
        self.started.append(details)
        return details

    def status(self, worker: Json) -> str:
        status: str = self.answer("check_status", {"worker_details": worker})["worker_status"]
        assert status in {"PENDING", "PROVISIONING", "RUNNING", "TERMINATED"}
        return status

    def terminate(self, worker: Json) -> None:
        self.answer("terminate", {"worker_details": worker})

    def logs(self, worker: Json, *, max_lines: int = 250, offset: str | None = None) -> Json:
        body = {"worker_details": worker, "max_lines": max_lines, "initial_offset": offset}
        return self.answer("get_logs", body)

    def until_ended(self, worker: Json) -> None:
        until(lambda: self.status(worker) == "TERMINATED", what="check_status says TERMINATED")

    def until_line(self, worker: Json, line: str) -> None:
        until(lambda: line in self.logs(worker)["log_lines"], what=f"get_logs shows {line!r}")


def until(condition: Callable[[], bool], *, what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"not within {SECONDS:g} s: {what}"
        time.sleep(0.2)


@pytest.fixture(scope="session")
def address() -> str:
    return os.environ["PROVISIONER_API_URL"]


@pytest.fixture
def server(address: str) -> Iterator[Server]:
    key = os.environ["PROVISIONER_API_KEY"]
    with httpx.Client(
        base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=30
    ) as http:
        server = Server(http)
        yield server
        for worker in server.started:
            server.terminate(worker)
        for worker in server.started:
            server.until_ended(worker)


def detail_of(response: httpx.Response) -> str:
    detail = response.json()["detail"]
    assert isinstance(detail, str), "an error's detail must be a text"
    assert detail
    return detail


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Basic bGVtb24="])
def test_every_call_wants_the_key(address: str, verb: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    response = httpx.post(f"{address}/{verb}", json={}, headers=headers)
    assert response.status_code in {401, 403}
    detail_of(response)


@pytest.mark.parametrize("verb", VERBS)
def test_a_body_that_makes_no_sense_is_refused(server: Server, verb: str) -> None:
    response = server.ask(verb, {"nonsense": True})
    assert 400 <= response.status_code < 500
    detail_of(response)


def test_another_call_does_not_exist(server: Server) -> None:
    response = server.ask("dance", {})
    assert response.status_code == 404
    detail_of(response)


def test_prepare_names_the_function(server: Server) -> None:
    prepared = server.prepare("print")
    assert prepared["type"] in {"TEST", "AWS_ECS"}
    assert isinstance(prepared["identifier"], str)


def test_prepare_may_be_repeated(server: Server) -> None:
    assert server.prepare("print")["type"] == server.prepare("print")["type"]


def test_prepare_refuses_what_cannot_run(server: Server) -> None:
    response = server.ask("prepare", server.function("print", image=MISSING_IMAGE))
    assert 400 <= response.status_code < 500
    detail_of(response)


def test_provision_names_the_worker(server: Server) -> None:
    worker = server.provision(server.request("print"))
    assert worker["type"] in {"TEST", "AWS_ECS"}
    assert isinstance(worker["identifier"], str)
    assert isinstance(worker["logs_identifier"], str)


def test_provision_twice_makes_one_worker(server: Server) -> None:
    """After a crash control-plane asks again, and must get the same worker."""
    request = server.request("wait")
    first = server.provision(request)
    server.until_line(first, "ready")
    assert server.provision(request) == first
    assert server.logs(first)["log_lines"].count("ready") == 1


def test_provision_starts_nothing_again_after_the_end(server: Server) -> None:
    request = server.request("wait")
    worker = server.provision(request)
    server.until_line(worker, "ready")
    server.terminate(worker)
    server.until_ended(worker)
    assert server.provision(request) == worker
    assert server.status(worker) == "TERMINATED"


def test_two_executions_have_two_workers(server: Server) -> None:
    first, second = (server.provision(server.request("wait")) for _ in range(2))
    assert first["identifier"] != second["identifier"]
    server.terminate(first)
    server.until_ended(first)
    assert server.status(second) != "TERMINATED"


def test_a_worker_ends_by_itself(server: Server) -> None:
    server.until_ended(server.provision(server.request("print")))


def test_terminate_asks_politely_and_the_worker_ends(server: Server) -> None:
    worker = server.provision(server.request("wait"))
    server.until_line(worker, "ready")
    server.terminate(worker)
    server.until_ended(worker)
    assert server.logs(worker)["log_lines"] == ["ready", "asked to stop"]


def test_terminate_of_an_ended_worker_is_fine(server: Server) -> None:
    worker = server.provision(server.request("print"))
    server.until_ended(worker)
    server.terminate(worker)
    server.terminate(worker)
    assert server.status(worker) == "TERMINATED"


@pytest.mark.parametrize("max_lines", [250, 100, 7])
def test_logs_come_in_pages(server: Server, max_lines: int) -> None:
    """Complete and in order, as soon as the worker counts as ended."""
    worker = server.provision(server.request("print"))
    server.until_ended(worker)
    lines: list[str] = []
    offset = None
    while len(lines) < 1000:
        page = server.logs(worker, max_lines=max_lines, offset=offset)
        assert len(page["log_lines"]) <= max_lines
        lines += page["log_lines"]
        if not page["log_lines"] or page["next_offset"] in (None, offset):
            break
        offset = page["next_offset"]
        assert isinstance(offset, str)
    assert lines == [f"line {i}" for i in range(600)]


def test_logs_of_a_running_worker_go_on_where_they_were(server: Server) -> None:
    worker = server.provision(server.request("wait"))
    server.until_line(worker, "ready")
    page = server.logs(worker)
    server.terminate(worker)
    server.until_ended(worker)
    if page["next_offset"] is None:  # no cursor: all again, and the reader skips
        assert server.logs(worker)["log_lines"] == ["ready", "asked to stop"]
    else:
        rest = server.logs(worker, offset=page["next_offset"])
        assert rest["log_lines"] == ["asked to stop"]


@pytest.mark.parametrize("verb", ["check_status", "terminate", "get_logs"])
def test_an_unknown_worker_is_told(server: Server, verb: str) -> None:
    """Best with 404. Who cannot tell unknown from long ended may call both TERMINATED."""
    worker = {"type": "TEST", "identifier": uuid.uuid4().hex, "logs_identifier": "x"}
    body = {"worker_details": worker, "max_lines": 250, "initial_offset": None}
    response = server.ask(verb, body)
    if response.is_success:
        assert server.status(worker) == "TERMINATED"
    else:
        detail_of(response)

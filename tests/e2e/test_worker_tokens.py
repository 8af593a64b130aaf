"""What a worker is given, and what it may do with it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.folders import open_to_all
from tests.support.harness import function_spec
from tests.support.stack.caller import Caller, Invocation, Version
from tests.support.stack.processes import Json
from tests.support.stack.stack import API_KEY, PROJECT, Stack


@dataclass(frozen=True)
class Holder:
    """A running worker, and a caller with its token."""

    version: Version
    call: Invocation
    execution: Json
    environment: dict[str, str]
    worker: Caller

    @property
    def execution_path(self) -> str:
        return self.call.execution_path(self.execution)

    def status(self, method: str, path: str, body: object = None) -> int:
        return self.worker.http.request(method, path, json=body).status_code

    def as_parent(self) -> Json:
        parent = {"function_name": "environment", "invocation_id": self.call.id}
        return {"input": '"Ada"', "parent_invocation": parent}


@pytest.fixture(scope="module")
def holder(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Holder]:
    """One worker that runs for all tests of this module."""
    gate = open_to_all(tmp_path_factory.mktemp("holder")) / "gate"
    version = stack.caller.deploy(PROJECT, function_spec("environment"), function_spec("greet"))
    call = version.invoke("environment", str(gate))
    seen = call.until(lambda s: s["executions"] and s["executions"][0]["output"])
    (execution,) = seen["executions"]
    environment: dict[str, str] = json.loads(execution["output"])
    url, token = environment["CONTROL_PLANE_API_URL"], environment["CONTROL_PLANE_API_KEY"]
    with Caller(url, token) as worker:
        yield Holder(version, call, execution, environment, worker)
        gate.touch()
        call.result()
        # The execution has ended, and with it what the token is good for.
        refused = Holder(version, call, execution, environment, worker)
        path = f"{version.path}/functions/greet/invocations"
        assert refused.status("POST", path, refused.as_parent()) == 403
        assert refused.status("GET", refused.execution_path) == 403
        assert refused.status("GET", call.path) == 403


def test_the_token_opens_its_own_execution(holder: Holder) -> None:
    own = holder.worker.get(holder.execution_path)
    assert own["execution_id"] == holder.execution["execution_id"]
    assert holder.status("GET", holder.call.path) == 200


def test_the_token_opens_nothing_else(holder: Holder) -> None:
    other = holder.version.invoke("greet")
    (execution,) = other.until_over()["executions"]
    other_path = other.execution_path(execution)
    for method, path, body in (
        ("GET", other_path, None),
        ("PUT", f"{other_path}/finish", {"outcome": "SUCCEEDED"}),
        ("GET", f"{other_path}/logs", None),
        ("GET", other.path, None),
        ("PUT", f"{other.path}/cancel", None),
        ("PUT", f"{holder.call.path}/cancel", None),
        ("GET", "/projects", None),
        ("PUT", "/projects/another", None),
        ("POST", f"{holder.version.path}/functions/greet/invocations", {"input": "null"}),
    ):
        assert holder.status(method, path, body) == 403, f"{method} {path}"


def test_the_token_creates_and_reads_children_of_its_own_invocation(holder: Holder) -> None:
    path = f"{holder.version.path}/functions/greet/invocations"
    child = Invocation(
        holder.worker,
        path,
        holder.worker.call("POST", path, json=holder.as_parent())["invocation_id"],
    )
    assert child.result() == "Hello, Ada!"
    assert child.get()["parent_invocation"]["invocation_id"] == holder.call.id


def test_the_root_key_is_nowhere_in_the_worker(stack: Stack, holder: Holder) -> None:
    execution_id = holder.execution["execution_id"]
    started = stack.started(execution_id)
    seen = [
        Path(f"/proc/{process.pid}/{name}").read_bytes()
        for process in (started.program, started.shim)
        for name in ("environ", "cmdline")
    ]
    folder = stack.worker_folder(execution_id).path
    seen += [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    # The search would find it: the worker's own token is there.
    token = holder.environment["CONTROL_PLANE_API_KEY"].encode()
    assert any(token in text for text in seen)
    assert not any(API_KEY.encode() in text for text in seen)


def test_the_worker_gets_no_secret_of_the_server(holder: Holder) -> None:
    names = set(holder.environment)
    assert not [name for name in names if name.startswith(("POSTGRES_", "TEMPORAL_"))]
    assert "CONTROL_PLANE_TOKEN_SECRET" not in names

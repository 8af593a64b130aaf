"""The requests that tests make of an external provisioner, and what its errors must be like."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import SecretStr

from core.ids import InvocationId, VersionId
from provisioners.base import (
    FunctionToPrepare,
    ProvisionerError,
    ResourceSpec,
    Unknown,
    UnrecoverableProvisioningError,
    WorkerRecord,
    WorkerRequest,
)
from provisioners.conformance import new_execution_id
from provisioners.external.client import ExternalClient
from provisioners.external.provisioner import ExternalProvisioner, ExternalProvisionerConfig

KEY = "lemonandherb"
TOKEN = "exe-1.secret-of-this-execution"
VERSION = VersionId("ver-" + "0" * 32)
EXECUTION = new_execution_id()
SPEC = ResourceSpec(virtual_cpus=0.5, memory_gbs=0.25, max_concurrency=7)
DETAILS = {"type": "TEST", "identifier": "w-1", "logs_identifier": "l-1"}
PREPARED = {"type": "TEST", "identifier": "p-1"}
WORKER = WorkerRecord(execution_id=EXECUTION, state={"id": "w-1"}, details=DETAILS)
FUNCTION = FunctionToPrepare(
    project_name="shop",
    version_id=VERSION,
    function_name="räume/auf",
    docker_image="image:1",
    resource_spec=SPEC,
)
REQUEST = WorkerRequest(
    project_name="shop",
    version_id=VERSION,
    function_name="räume/auf",
    invocation_id=InvocationId("inv-" + "0" * 32),
    execution_id=EXECUTION,
    attempt=1,
    docker_image="image:1",
    resource_spec=SPEC,
    prepared_details=PREPARED,
    environment={"CONTROL_PLANE_API_KEY": TOKEN, "CONTROL_PLANE_PROJECT_NAME": "shop"},
)
SPEC_SENT = {"virtual_cpus": 0.5, "memory_gbs": 0.25, "max_concurrency": 7}
RIGHT: dict[str, Any] = {
    "prepare": {"prepared_function_details": PREPARED},
    "provision": {"worker_details": DETAILS},
    "terminate": {},
    "check_status": {"worker_status": "RUNNING"},
    "get_logs": {"log_lines": ["one"], "next_offset": "1"},
}

Ask = Callable[[ExternalProvisioner], Awaitable[object]]
ASK: dict[str, Ask] = {
    "prepare": lambda p: p.prepare(FUNCTION),
    "provision": lambda p: p.provision(REQUEST),
    "terminate": lambda p: p.terminate(EXECUTION, WORKER, grace=1),
    "check_status": lambda p: p.observe(WORKER),
    "get_logs": lambda p: p.read_logs(WORKER, offset="", ended=False),
}
MAKING = ["prepare", "provision"]


def provisioner_at(url: str, *, timeout: float = 20, **config: Any) -> ExternalProvisioner:
    client = ExternalClient(url, SecretStr(KEY), timeout=timeout)
    return ExternalProvisioner(
        client, ExternalProvisionerConfig(**{"poll_seconds": 0.05, **config})
    )


async def error_of(asked: Awaitable[object]) -> ProvisionerError:
    with pytest.raises(ProvisionerError) as caught:
        await asked
    assert KEY not in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert len(str(caught.value)) < 800
    assert "\n" not in str(caught.value)
    return caught.value


async def final_error_of(asked: Awaitable[object]) -> UnrecoverableProvisioningError:
    error = await error_of(asked)
    assert isinstance(error, UnrecoverableProvisioningError)
    return error


async def passing_error_of(asked: Awaitable[object]) -> ProvisionerError:
    error = await error_of(asked)
    assert not isinstance(error, UnrecoverableProvisioningError)
    return error


async def assert_named(external: ExternalProvisioner, verb: str, text: str) -> None:
    """Each call fails in its own way, and its text holds this one."""
    match verb:
        case "prepare" | "provision":
            assert text in str(await error_of(ASK[verb](external)))
        case "terminate":
            assert text in str(await passing_error_of(ASK[verb](external)))
        case "check_status":
            seen = await external.observe(WORKER)
            assert isinstance(seen, Unknown)
            assert text in seen.detail
        case "get_logs":
            page = await external.read_logs(WORKER, offset="", ended=True)
            assert len(page.lines) == 1
            assert page.lines[0].startswith("[control-plane: logs could not be read: ")
            assert text in page.lines[0]

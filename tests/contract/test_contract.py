"""Every endpoint and every named error, through the strict models of a client that exists."""

import re
from collections.abc import Awaitable
from typing import Any

import pytest
from pydantic import ValidationError

from tests.support.existing_client.connection import ERRORS, ApiError, Connection, function_path
from tests.support.existing_client.reading import (
    ExecutionInfo,
    FunctionStatus,
    InvocationInfo,
    InvocationStatus,
    Outcome,
    ProjectInfo,
    WorkerStatus,
)
from tests.support.existing_client.worker import until_ready, worker_of
from tests.support.harness import ControlPlane, eventually, function_spec

MISSING_ID = "0" * 32


async def error_of(call: Awaitable[object]) -> str:
    """Give the name that a client has for the error of a call."""
    with pytest.raises(ApiError) as caught:
        await call
    return caught.value.name


@pytest.mark.parametrize(
    "change",
    [
        {"creation_time": 1.0},
        {"creation_time": "1"},
        {"creation_time": True},
        {"creation_time": None},
        {"project_name": 1},
        {"deletion_request_time": 1.5},
    ],
)
def test_the_models_refuse_what_a_client_refuses(change: dict[str, Any]) -> None:
    """Guards the other tests: a wrong type must not pass unseen."""
    good = {"project_name": "shop", "creation_time": 1, "deletion_request_time": None, "new": {}}
    ProjectInfo.model_validate(good)
    with pytest.raises(ValidationError):
        ProjectInfo.model_validate(good | change)


async def test_every_answer_reads_with_documented_types_and_nulls(
    control_plane: ControlPlane, connection: Connection
) -> None:
    assert (await connection.check_health()).status == "healthy"
    for name in ("a", "b"):
        project = await connection.create_project(name)
        assert project.deletion_request_time is None
    assert [p.project_name for p in (await connection.list_projects()).projects] == ["b", "a"]
    control_plane.provisioner.may_prepare.clear()
    empty = await connection.create_version("a")
    version = await connection.create_version("a", function_spec("f"), function_spec("g"))
    assert empty.functions == []
    for each in (empty, version):
        assert re.fullmatch(r"ver-[0-9a-f]{32}", each.version_id)
    for function in version.functions:
        assert function.function_status is FunctionStatus.PENDING
        assert function.prepared_function_details is None
        assert function.docker_image == "image:1"
    listed = (await connection.list_versions("a")).versions
    assert [v.version_id for v in listed] == [version.version_id, empty.version_id]
    assert await connection.get_version("a", "latest") == version

    path = function_path("a", version.version_id, "f")
    created = await connection.create_invocation(path, input="the input")
    assert re.fullmatch(r"inv-[0-9a-f]{32}", created.invocation_id)
    assert created.invocation_status is InvocationStatus.RUNNING
    assert created.last_update_time == created.creation_time
    assert created.parent_invocation is None
    assert created.prepared_function_details is None
    assert created.cancellation_request_time is None
    control_plane.provisioner.may_prepare.set()
    await until_ready(connection, "a")

    invocation = f"{path}/invocations/{created.invocation_id}"
    worker = await worker_of(control_plane, connection, invocation)
    unstarted = await connection.get_execution(worker.path)
    assert re.fullmatch(r"exe-[0-9a-f]{32}", unstarted.execution_id)
    assert unstarted.invocation_creation_time == created.creation_time
    assert unstarted.prepared_function_details is not None
    assert unstarted.worker_details is not None
    assert (unstarted.outcome, unstarted.output, unstarted.error_message) == (None, None, None)
    assert (unstarted.execution_start_time, unstarted.execution_finish_time) == (None, None)
    assert unstarted.termination_signal_time is None
    assert (await connection.get_execution_logs(worker.path)).log_lines == []
    started = await connection.start_execution(worker.path)
    assert started.execution_start_time is not None
    assert started.execution_finish_time is None
    parent = {"function_name": "f", "invocation_id": created.invocation_id}
    child = await connection.create_invocation(
        function_path("a", "latest", "g"), input="", parent_invocation=parent
    )
    assert child.version_id == version.version_id
    assert child.parent_invocation is not None
    assert child.parent_invocation.invocation_id == created.invocation_id
    assert (await connection.update_execution(worker.path, "1")).output == "1"
    finished: ExecutionInfo = await connection.finish_execution(worker.path, Outcome.SUCCEEDED)
    assert (finished.output, finished.outcome) == ("1", Outcome.SUCCEEDED)
    assert finished.worker_status is WorkerStatus.RUNNING
    worker.end()

    cancelled = await connection.cancel_invocation(
        f"{function_path('a', 'latest', 'g')}/invocations/{child.invocation_id}"
    )
    assert cancelled.cancellation_requested
    assert cancelled.cancellation_request_time is not None

    def is_over(info: InvocationInfo) -> bool:
        return info.invocation_status is InvocationStatus.TERMINATED

    over = await eventually(lambda: connection.get_invocation(invocation), is_over)
    (execution,) = over.executions
    assert execution.worker_status is WorkerStatus.TERMINATED
    children = await connection.list_invocations(
        function_path("a", "latest", "g"),
        parent_function_name="f",
        parent_invocation_id=created.invocation_id,
    )
    assert [entry.invocation_id for entry in children.invocations] == [child.invocation_id]
    page = await connection.list_invocations(path, max_results=0)
    assert page.invocations == []
    assert page.next_offset == f"{created.creation_time},{created.invocation_id}"
    assert (await connection.delete_project("b")).deletion_request_time is not None


async def test_errors_have_the_names_that_clients_know(
    control_plane: ControlPlane, connection: Connection
) -> None:
    """Each row of the table of errors, and that nothing is missing from this test."""
    plane = control_plane
    await connection.create_project("shop")
    version = (await connection.create_version("shop", function_spec("f"))).version_id
    f = function_path("shop", version, "f")
    seen: set[str] = set()

    async def expect(name: str, call: Awaitable[object]) -> None:
        assert await error_of(call) == name
        seen.add(name)

    await expect("ProjectAlreadyExists", connection.create_project("shop"))
    await expect("ProjectNameIsTooLong", connection.create_project("x" * 65))
    await expect("ProjectDoesNotExist", connection.get_project("nobody"))
    await expect("VersionDoesNotExist", connection.get_version("shop", f"ver-{MISSING_ID}"))
    await expect(
        "FunctionDoesNotExist",
        connection.create_invocation(function_path("shop", version, "g"), input=""),
    )
    no_invocation = f"{f}/invocations/inv-{MISSING_ID}"
    await expect("InvocationDoesNotExist", connection.get_invocation(no_invocation))
    parent = {"function_name": "f", "invocation_id": f"inv-{MISSING_ID}"}
    await expect(
        "ParentInvocationDoesNotExist",
        connection.create_invocation(f, input="", parent_invocation=parent),
    )
    await expect("OffsetIsInvalid", connection.list_invocations(f, initial_offset=""))
    await expect(
        "ParentFunctionNameIsMissing", connection.list_invocations(f, parent_invocation_id="x")
    )
    await expect(
        "ParentInvocationIdIsMissing", connection.list_invocations(f, parent_function_name="f")
    )
    created = await connection.create_invocation(f, input="")
    path = f"{f}/invocations/{created.invocation_id}"
    worker = await worker_of(plane, connection, path)
    await expect(
        "ExecutionDoesNotExist", connection.get_execution(f"{path}/executions/exe-{MISSING_ID}")
    )
    await expect("ExecutionHasNotStarted", connection.update_execution(worker.path, "1"))
    await connection.start_execution(worker.path)
    await expect("ExecutionHasAlreadyStarted", connection.start_execution(worker.path))
    await worker.finish(Outcome.SUCCEEDED)
    await expect("ExecutionHasAlreadyFinished", worker.finish(Outcome.SUCCEEDED))
    worker.end()
    await plane.until_terminated(path)
    await expect("InvocationIsAlreadyTerminated", connection.cancel_invocation(path))
    lost = f"{f}/invocations/{(await connection.create_invocation(f, input='')).invocation_id}"
    gone = await worker_of(plane, connection, lost)
    gone.end()
    await plane.until_terminated(lost)
    await expect("ExecutionIsAlreadyTerminated", connection.start_execution(gone.path))
    # Of a terminated one that never started, `finish` names what came first.
    assert await error_of(gone.finish(Outcome.SUCCEEDED)) == "ExecutionHasNotStarted"
    # A project with a running invocation stays while it is being deleted.
    running = await connection.create_invocation(f, input="")
    plane.provisioner.obedient = False
    last = await worker_of(plane, connection, f"{f}/invocations/{running.invocation_id}")
    await connection.delete_project("shop")
    await expect("ProjectIsBeingDeleted", connection.create_version("shop"))
    last.end()
    plane.http.headers["Authorization"] = "Bearer another"
    await expect("ApiKeyIsInvalid", connection.list_projects())
    # The key is judged before anything else.
    assert await error_of(connection.get_project("nobody")) == "ApiKeyIsInvalid"
    assert seen == set(ERRORS.values())

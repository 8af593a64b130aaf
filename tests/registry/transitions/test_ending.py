"""An invocation ends in one place, and its phase changes in one other."""

import ast
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from core.clock import utc_now
from core.contract.functions import ExecutionSpec, FunctionSpec, ResourceSpec
from core.ids import ExecutionId, FunctionId, InvocationId
from core.messages import CloseRequest, EndWaitingRequest, OpenRequest
from core.states import InterruptReason, InvocationStatus, Phase, QueueReason
from registry.database.engine import Registry
from registry.database.tables import Execution, Function, Invocation
from registry.queries.invocations import create_invocation
from registry.queries.projects import create_project
from registry.queries.versions import create_version
from registry.transitions.cancellation import request_cancellation
from registry.transitions.deletion import cancel_some, request_project_deletion
from registry.transitions.ending import end_invocations
from registry.transitions.executions import close_execution, end_waiting, open_execution
from registry.transitions.preparation import record_prepared
from tests.support.repository import ROOT

FUNCTION = FunctionSpec(
    function_name="f",
    resource_spec=ResourceSpec(virtual_cpus=1, memory_gbs=1, max_concurrency=10),
    execution_spec=ExecutionSpec(max_retries=1, timeout_seconds=60),
)
EXECUTION_ID = ExecutionId(f"exe-{1:032x}")
TROUBLE = "the provisioner does not answer"


@pytest.fixture
async def function_id(registry: Registry) -> FunctionId:
    async with registry.transaction() as session:
        await create_project(session, name="p")
        version = await create_version(
            session,
            project_name="p",
            default_docker_image="i",
            functions=[FUNCTION],
            default_pool="dev",
        )
        function_id = FunctionId(version.functions[0].id)
        await record_prepared(session, function_id, details=None)
    return function_id


@pytest.fixture
async def invocation_id(registry: Registry, function_id: FunctionId) -> InvocationId:
    """An invocation with something in its way."""
    del function_id
    async with registry.transaction() as session:
        created = await create_invocation(
            session,
            project_name="p",
            version_id=None,
            function_name="f",
            input_="",
            parent=None,
        )
        invocation_id = InvocationId(created.invocation.id)
        await session.execute(
            update(Invocation).where(Invocation.id == invocation_id).values(trouble=TROUBLE)
        )
    return invocation_id


async def row_of(registry: Registry, invocation_id: InvocationId) -> Invocation:
    async with registry.autocommit() as session:
        return await session.get_one(Invocation, invocation_id)


async def open_one(registry: Registry, invocation_id: InvocationId) -> None:
    async with registry.transaction() as session:
        await open_execution(
            session, OpenRequest(invocation_id=invocation_id, execution_id=EXECUTION_ID)
        )


async def by_its_last_execution(registry: Registry, invocation_id: InvocationId) -> None:
    await open_one(registry, invocation_id)
    async with registry.transaction() as session:
        await close_execution(
            session,
            CloseRequest(execution_id=EXECUTION_ID, interrupted=InterruptReason.CANCELLED),
        )


async def while_it_waits(registry: Registry, invocation_id: InvocationId) -> None:
    async with registry.transaction() as session:
        await end_waiting(
            session,
            EndWaitingRequest(invocation_id=invocation_id, reason=InterruptReason.CANCELLED),
        )


async def before_its_first_execution(registry: Registry, invocation_id: InvocationId) -> None:
    async with registry.transaction() as session:
        await request_cancellation(session, invocation_id)
    await open_one(registry, invocation_id)


async def between_two_attempts(registry: Registry, invocation_id: InvocationId) -> None:
    await open_one(registry, invocation_id)
    async with registry.transaction() as session:
        await close_execution(session, CloseRequest(execution_id=EXECUTION_ID))
    assert (await row_of(registry, invocation_id)).queue_reason == QueueReason.BACKOFF
    async with registry.transaction() as session:
        await request_cancellation(session, invocation_id)


async def with_its_project(registry: Registry, invocation_id: InvocationId) -> None:
    function_id = FunctionId((await row_of(registry, invocation_id)).function_id)
    async with registry.transaction() as session:
        await request_project_deletion(session, name="p")
        await cancel_some(session, function_id)


WAYS = (
    by_its_last_execution,
    while_it_waits,
    before_its_first_execution,
    between_two_attempts,
    with_its_project,
)
End = Callable[[Registry, InvocationId], Awaitable[None]]


@pytest.mark.parametrize("end", WAYS)
async def test_each_end_writes_the_same_columns(
    registry: Registry, invocation_id: InvocationId, end: End
) -> None:
    await end(registry, invocation_id)
    row = await row_of(registry, invocation_id)
    assert (row.status, row.phase) == (InvocationStatus.TERMINATED, Phase.CANCELLED)
    assert row.terminated_at is not None
    assert row.updated_at == row.terminated_at
    assert (row.queue_reason, row.trouble) == (None, None)
    assert row.phase_detail
    assert row.workflow_to_end == (end is with_its_project)


@pytest.mark.parametrize("end", WAYS)
async def test_what_has_ended_does_not_end_again(
    registry: Registry, invocation_id: InvocationId, end: End
) -> None:
    await end(registry, invocation_id)
    ended = await row_of(registry, invocation_id)
    statement = end_invocations(
        Invocation.id == invocation_id, phase=Phase.FAILED, detail="again", at=utc_now()
    )
    async with registry.transaction() as session:
        assert (await session.execute(statement)).all() == []
    row = await row_of(registry, invocation_id)
    assert (row.phase, row.phase_detail) == (Phase.CANCELLED, ended.phase_detail)
    assert row.updated_at == ended.updated_at


PLACES = {"registry/transitions/ending.py", "registry/transitions/phases.py"}


def test_no_other_code_of_the_server_writes_a_status_or_a_phase() -> None:
    """What is to follow an end or a change of phase would be forgotten there."""
    found = {
        f"{place}:{line}"
        for room in ("registry", "activities", "api", "worker", "runtime", "standalone")
        for path in (ROOT / room).rglob("*.py")
        if (place := str(path.relative_to(ROOT))) not in PLACES
        for line in _writes(path)
    }
    assert found == set()


def _writes(path: Path) -> Iterator[int]:
    """Name the lines that set `status` or `phase` of a row, in an UPDATE or on an object."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Attribute) and target.attr in {"status", "phase"}:
                    yield node.lineno
        if isinstance(node, ast.Call):
            if _name_of(node.func) == "values":
                named = {keyword.arg for keyword in node.keywords}
            elif _name_of(node.func) == "setattr":
                named = {ast.unparse(argument).strip("'") for argument in node.args}
            else:
                continue
            in_dicts = {
                key.value
                for argument in node.args
                for each in ast.walk(argument)
                if isinstance(each, ast.Dict)
                for key in each.keys
                if isinstance(key, ast.Constant)
            }
            if (named | in_dicts) & {"status", "phase"}:
                yield node.lineno


def _name_of(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


async def test_the_pool_of_a_row_of_before_is_where_its_invocation_was_started(
    registry: Registry, invocation_id: InvocationId
) -> None:
    """A server of before wrote the kind of any Temporal worker into the execution."""
    await open_one(registry, invocation_id)
    for functions_pool, answered in (("dev", "at random"), (None, None)):
        async with registry.transaction() as session:
            await session.execute(update(Function).values(pool=functions_pool))
            await session.execute(update(Execution).values(pool="at random"))
            for execution_id in (EXECUTION_ID, ExecutionId(f"exe-{2:032x}")):
                request = OpenRequest(invocation_id=invocation_id, execution_id=execution_id)
                assert (await open_execution(session, request)).pool == answered


async def test_an_execution_of_a_function_of_before_runs_where_its_invocation_was_started(
    registry: Registry, invocation_id: InvocationId
) -> None:
    async with registry.transaction() as session:
        await session.execute(update(Function).values(pool=None))
        await session.execute(update(Invocation).values(pool="external"))
        request = OpenRequest(invocation_id=invocation_id, execution_id=EXECUTION_ID)
        assert (await open_execution(session, request)).pool is None
        assert (await session.get_one(Execution, EXECUTION_ID)).pool == "external"

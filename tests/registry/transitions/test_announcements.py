"""Every end of an invocation is announced, and every outcome of an execution."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from core.contract.functions import ExecutionSpec, FunctionSpec, ResourceSpec
from core.ids import ExecutionId, FunctionId, InvocationId, VersionId
from core.messages import CloseRequest, EndWaitingRequest, OpenRequest, Verdict
from core.states import InterruptReason, InvocationStatus, Outcome
from registry.changes import Changes, announce
from registry.database.engine import Registry
from registry.database.tables import Invocation
from registry.queries.invocations import InvocationDetails, create_invocation
from registry.queries.paths import ExecutionPath
from registry.queries.projects import create_project
from registry.queries.versions import create_version
from registry.transitions.cancellation import request_cancellation
from registry.transitions.deletion import cancel_some
from registry.transitions.executions import close_execution, end_waiting, open_execution
from registry.transitions.preparation import record_prepared
from registry.transitions.reports import finish_execution, start_execution, update_execution
from tests.registry.queries.test_queries import statements_of
from tests.support.harness import heard

SPEC = FunctionSpec(
    function_name="f",
    resource_spec=ResourceSpec(virtual_cpus=1, memory_gbs=1, max_concurrency=10),
    execution_spec=ExecutionSpec(max_retries=1, timeout_seconds=60),
)
EXECUTION_ID = ExecutionId(f"exe-{1:032x}")
SECOND_EXECUTION_ID = ExecutionId(f"exe-{2:032x}")


@pytest.fixture
async def created(registry: Registry) -> InvocationDetails:
    """An invocation of a prepared function with one retry."""
    async with registry.transaction() as session:
        await create_project(session, name="p")
        version = await create_version(
            session, project_name="p", default_docker_image="i", functions=[SPEC], default_pool="p"
        )
        await record_prepared(session, FunctionId(version.functions[0].id), details=None)
    async with registry.transaction() as session:
        return await create_invocation(
            session,
            project_name="p",
            version_id=None,
            function_name="f",
            input_="",
            parent=None,
        )


@pytest.fixture
def invocation_id(created: InvocationDetails) -> InvocationId:
    return InvocationId(created.invocation.id)


@pytest.fixture
def path(created: InvocationDetails) -> ExecutionPath:
    return ExecutionPath(
        project_name="p",
        version_id=VersionId(created.context.version.id),
        function_name="f",
        invocation_id=InvocationId(created.invocation.id),
        execution_id=EXECUTION_ID,
    )


async def open_next(
    registry: Registry, invocation_id: InvocationId, execution_id: ExecutionId = EXECUTION_ID
) -> Verdict:
    request = OpenRequest(invocation_id=invocation_id, execution_id=execution_id)
    async with registry.transaction() as session:
        return (await open_execution(session, request)).verdict


async def close(registry: Registry, execution_id: ExecutionId = EXECUTION_ID) -> bool:
    async with registry.transaction() as session:
        return (await close_execution(session, CloseRequest(execution_id=execution_id))).final


@asynccontextmanager
async def announced_end(
    registry: Registry, changes: Changes, invocation_id: InvocationId
) -> AsyncIterator[asyncio.Event]:
    """What happens in the block ends the invocation, and announces it."""
    with changes.watch(invocation_id) as event:
        yield event
        await heard(event)
    async with registry.autocommit() as session:
        ended = await session.get_one(Invocation, invocation_id)
    assert ended.status == InvocationStatus.TERMINATED


async def test_the_last_close_is_announced_and_no_earlier_one(
    registry: Registry, changes: Changes, invocation_id: InvocationId
) -> None:
    async with announced_end(registry, changes, invocation_id) as event:
        await open_next(registry, invocation_id)
        assert not await close(registry)
        # Announcements arrive in the order of commits.
        with changes.watch("later") as later:
            async with registry.transaction() as session:
                await announce(session, "later")
            await heard(later)
        assert not event.is_set()
        await open_next(registry, invocation_id, SECOND_EXECUTION_ID)
        assert await close(registry, SECOND_EXECUTION_ID)


async def test_an_end_in_place_of_an_admission_is_announced(
    registry: Registry, changes: Changes, invocation_id: InvocationId
) -> None:
    async with registry.transaction() as session:
        invocation = await session.get_one(Invocation, invocation_id)
        invocation.created_at -= timedelta(hours=1)
    async with announced_end(registry, changes, invocation_id):
        assert await open_next(registry, invocation_id) is Verdict.OVER


async def test_the_end_of_waiting_is_announced(
    registry: Registry, changes: Changes, invocation_id: InvocationId
) -> None:
    request = EndWaitingRequest(invocation_id=invocation_id, reason=InterruptReason.TIMED_OUT)
    async with (
        announced_end(registry, changes, invocation_id),
        registry.transaction() as session,
    ):
        await end_waiting(session, request)


async def test_a_cancel_between_two_attempts_is_announced(
    registry: Registry, changes: Changes, invocation_id: InvocationId
) -> None:
    await open_next(registry, invocation_id)
    await close(registry)
    async with (
        announced_end(registry, changes, invocation_id),
        registry.transaction() as session,
    ):
        await request_cancellation(session, invocation_id)


async def test_ends_by_the_deletion_of_a_project_are_announced(
    registry: Registry,
    changes: Changes,
    created: InvocationDetails,
    invocation_id: InvocationId,
) -> None:
    async with (
        announced_end(registry, changes, invocation_id),
        registry.transaction() as session,
    ):
        await cancel_some(session, FunctionId(created.context.function.id))


async def test_an_outcome_is_announced_without_a_statement_of_its_own(
    registry: Registry, changes: Changes, invocation_id: InvocationId, path: ExecutionPath
) -> None:
    await open_next(registry, invocation_id)
    with changes.watch(EXECUTION_ID) as event:
        async with registry.autocommit() as session:
            await start_execution(session, path)
        with statements_of(registry) as updating:
            async with registry.autocommit() as session:
                await update_execution(session, path, latest_output="so far")
        assert not event.is_set()
        with statements_of(registry) as finishing:
            async with registry.autocommit() as session:
                await finish_execution(
                    session,
                    path,
                    outcome=Outcome.SUCCEEDED,
                    final_output="done",
                    error_message=None,
                )
        await heard(event)
    assert len(finishing) == len(updating)

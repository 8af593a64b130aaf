"""Transitions that run again after a crash give the same answer."""

import pytest
from sqlalchemy import text

from core.contract.functions import ExecutionSpec, FunctionSpec, ResourceSpec
from core.ids import ExecutionId, FunctionId, InvocationId
from core.messages import Admission, CloseRequest, Decision, OpenRequest, Verdict
from core.states import InvocationStatus, Outcome, Phase
from registry.database.engine import Registry
from registry.database.tables import Execution, Invocation
from registry.queries.invocations import create_invocation
from registry.queries.projects import create_project
from registry.queries.versions import create_version
from registry.transitions.executions import close_execution, open_execution
from registry.transitions.preparation import record_prepared

LIMITED = FunctionSpec(
    function_name="limited",
    resource_spec=ResourceSpec(virtual_cpus=1, memory_gbs=1, max_concurrency=1),
    execution_spec=ExecutionSpec(max_retries=0, timeout_seconds=60),
)


@pytest.fixture
async def function_id(registry: Registry) -> FunctionId:
    async with registry.transaction() as session:
        await create_project(session, name="p")
        version = await create_version(
            session,
            project_name="p",
            default_docker_image="i",
            functions=[LIMITED],
            default_pool="p",
        )
    return FunctionId(version.functions[0].id)


async def prepare(registry: Registry, function_id: FunctionId) -> list[InvocationId]:
    async with registry.transaction() as session:
        return await record_prepared(session, function_id, details=None)


async def invoke(registry: Registry) -> InvocationId:
    async with registry.transaction() as session:
        created = await create_invocation(
            session,
            project_name="p",
            version_id=None,
            function_name="limited",
            input_="",
            parent=None,
        )
    return InvocationId(created.invocation.id)


def execution_id(number: int) -> ExecutionId:
    return ExecutionId(f"exe-{number:032x}")


async def ask(registry: Registry, invocation_id: InvocationId, number: int) -> Admission:
    request = OpenRequest(invocation_id=invocation_id, execution_id=execution_id(number))
    async with registry.transaction() as session:
        return await open_execution(session, request)


async def close(registry: Registry, number: int) -> Decision:
    async with registry.transaction() as session:
        return await close_execution(session, CloseRequest(execution_id=execution_id(number)))


async def test_a_repeated_close_wakes_the_same_waiter_again(
    registry: Registry, function_id: FunctionId
) -> None:
    await prepare(registry, function_id)
    first, second, third = [await invoke(registry) for _ in range(3)]
    assert (await ask(registry, first, 1)).verdict is Verdict.ADMITTED
    assert (await ask(registry, second, 2)).verdict is Verdict.WAIT
    assert (await ask(registry, third, 3)).verdict is Verdict.WAIT

    assert (await close(registry, 1)).wake == [second]
    assert (await close(registry, 1)).wake == [second]

    # The slot is held free for the one that was called.
    assert (await ask(registry, third, 3)).verdict is Verdict.WAIT
    assert (await ask(registry, second, 2)).verdict is Verdict.ADMITTED
    assert (await close(registry, 1)).wake == []


async def test_a_repeated_preparation_wakes_the_same_waiter_again(
    registry: Registry, function_id: FunctionId
) -> None:
    first, second = [await invoke(registry) for _ in range(2)]
    assert (await ask(registry, first, 1)).verdict is Verdict.WAIT
    assert (await ask(registry, second, 2)).verdict is Verdict.WAIT
    assert await prepare(registry, function_id) == [first]
    assert await prepare(registry, function_id) == [first]


async def test_a_repeated_open_holds_one_slot(registry: Registry, function_id: FunctionId) -> None:
    await prepare(registry, function_id)
    invocation_id = await invoke(registry)
    answers = [await ask(registry, invocation_id, 1) for _ in range(2)]
    assert [(answer.verdict, answer.attempt) for answer in answers] == [(Verdict.ADMITTED, 1)] * 2


async def test_a_repeated_close_keeps_the_first_end(
    registry: Registry, function_id: FunctionId
) -> None:
    await prepare(registry, function_id)
    invocation_id = await invoke(registry)
    await ask(registry, invocation_id, 1)
    async with registry.transaction() as session:
        execution = await session.get_one(Execution, execution_id(1))
        execution.started_at = execution.created_at
        execution.outcome = Outcome.SUCCEEDED
    answers = [await close(registry, 1) for _ in range(2)]
    assert answers[0] == answers[1]
    async with registry.autocommit() as session:
        ended = await session.get_one(Invocation, invocation_id)
    assert (ended.status, ended.phase) == (InvocationStatus.TERMINATED, Phase.SUCCEEDED)


async def test_who_waits_behind_others_that_wait_does_not_ask_again_by_itself(
    registry: Registry, function_id: FunctionId
) -> None:
    await prepare(registry, function_id)
    running, newcomer, first, second = [await invoke(registry) for _ in range(4)]
    # Only the newcomer, whose workflow may never come, is before it.
    assert (await ask(registry, running, 1)).verdict is Verdict.ADMITTED
    await close(registry, 1)
    waiting = [await ask(registry, invocation_id, 9) for invocation_id in (first, second)]
    assert [answer.verdict for answer in waiting] == [Verdict.WAIT] * 2
    assert [answer.ask_again_seconds for answer in waiting] == [1.0, None]
    # Nobody is left behind: each one that comes calls the next.
    assert (await ask(registry, newcomer, 2)).wake == []
    assert (await close(registry, 2)).wake == [first]
    assert (await ask(registry, first, 3)).verdict is Verdict.ADMITTED
    assert (await close(registry, 3)).wake == [second]


async def test_asking_for_a_slot_looks_at_a_bounded_part_of_the_queue(
    registry: Registry, function_id: FunctionId
) -> None:
    await prepare(registry, function_id)
    assert (await ask(registry, await invoke(registry), 1)).verdict is Verdict.ADMITTED
    async with registry.transaction() as session:
        await session.execute(_QUEUE_OF_MANY, {"function_id": function_id})
    last = await ask(registry, await invoke(registry), 2)
    assert last.verdict is Verdict.WAIT
    assert last.detail == "1 of 1 concurrent executions in use, 1000 or more waiting ahead"


_QUEUE_OF_MANY = text(
    """
    INSERT INTO invocations (
        id, function_id, input, provisioner, status, phase, queue_reason, created_at, updated_at
    )
    SELECT 'inv-' || lpad(to_hex(number), 32, '0'), :function_id, '', 'p', 'RUNNING', 'QUEUED',
           'function_limit', now(), now()
    FROM generate_series(1, 1500) AS number
    """
)

"""How a cancel spreads: rules CAN. The lists of invocations are those of docs/behaviours.md."""

import asyncio
from datetime import UTC, datetime

import pytest

from core.clock import utc_now
from core.contract.functions import ExecutionSpec, FunctionSpec, ResourceSpec
from core.contract.invocations import ParentInvocationDefinition
from core.errors import InvocationDoesNotExistError, InvocationIsAlreadyTerminatedError
from core.ids import InvocationId
from core.states import InvocationStatus, Phase
from registry.database.engine import Registry
from registry.database.tables import Invocation
from registry.queries.invocations import create_invocation
from registry.queries.projects import create_project
from registry.queries.versions import create_version
from registry.transitions.cancellation import request_cancellation
from tests.support.locks import until_somebody_waits_for_a_lock

EARLIER = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
async def function(registry: Registry) -> None:
    spec = FunctionSpec(
        function_name="f",
        resource_spec=ResourceSpec(virtual_cpus=1, memory_gbs=1, max_concurrency=1),
        execution_spec=ExecutionSpec(max_retries=0, timeout_seconds=60),
    )
    async with registry.transaction() as session:
        await create_project(session, name="p")
        await create_version(
            session, project_name="p", default_docker_image="i", functions=[spec], default_pool="p"
        )


async def invoke(registry: Registry, parent: InvocationId | None = None) -> InvocationId:
    named = None
    if parent is not None:
        named = ParentInvocationDefinition(function_name="f", invocation_id=parent)
    async with registry.transaction() as session:
        created = await create_invocation(
            session,
            project_name="p",
            version_id=None,
            function_name="f",
            input_="",
            parent=named,
        )
    return InvocationId(created.invocation.id)


async def cancel(registry: Registry, invocation_id: InvocationId) -> list[InvocationId]:
    async with registry.transaction() as session:
        return await request_cancellation(session, invocation_id)


async def change(registry: Registry, invocation_id: InvocationId, **values: object) -> None:
    async with registry.transaction() as session:
        row = await session.get_one(Invocation, invocation_id)
        for name, value in values.items():
            setattr(row, name, value)


async def end(registry: Registry, invocation_id: InvocationId) -> None:
    await change(
        registry,
        invocation_id,
        status=InvocationStatus.TERMINATED,
        phase=Phase.SUCCEEDED,
        queue_reason=None,
        terminated_at=utc_now(),
    )


async def requested_at(registry: Registry, invocation_id: InvocationId) -> datetime | None:
    async with registry.autocommit() as session:
        return (await session.get_one(Invocation, invocation_id)).cancellation_requested_at


async def test_can_2_can_4_can_5_only_what_is_below_is_cancelled(registry: Registry) -> None:
    """CAN-1, CAN-2, CAN-4, CAN-5: neither parents, nor siblings, nor strangers."""
    stranger, parent = await invoke(registry), await invoke(registry)
    middle, sibling = await invoke(registry, parent), await invoke(registry, parent)
    child = await invoke(registry, middle)
    assert await cancel(registry, middle) == [middle, child]
    for untouched in (stranger, parent, sibling):
        assert await requested_at(registry, untouched) is None
    assert await requested_at(registry, child) is not None


async def test_can_3_a_second_cancel_keeps_each_first_time(registry: Registry) -> None:
    """CAN-3: but all are named again, in case their workflows have not heard of it."""
    parent = await invoke(registry)
    child = await invoke(registry, parent)
    await change(registry, child, cancellation_requested_at=EARLIER)
    assert await cancel(registry, parent) == [parent, child]
    first = await requested_at(registry, parent)
    assert await cancel(registry, parent) == [parent, child]
    assert await requested_at(registry, parent) == first
    assert await requested_at(registry, child) == EARLIER


async def test_can_7_all_generations_at_once_also_through_ended_ones(registry: Registry) -> None:
    """CAN-7: in any order of ids."""
    grandchild = await invoke(registry)
    top = await invoke(registry)
    ended = await invoke(registry, top)
    await change(registry, grandchild, parent_id=ended)
    last = await invoke(registry, grandchild)
    await end(registry, ended)
    assert set(await cancel(registry, top)) == {top, grandchild, last}
    assert await requested_at(registry, ended) is None
    for cancelled in (top, grandchild, last):
        assert await requested_at(registry, cancelled) is not None


async def test_can_6_a_child_of_a_cancelled_parent_is_born_cancelled(registry: Registry) -> None:
    """CAN-6: while the parent still runs, and after its end."""
    parent = await invoke(registry)
    await cancel(registry, parent)
    assert await requested_at(registry, await invoke(registry, parent)) is not None
    await end(registry, parent)
    assert await requested_at(registry, await invoke(registry, parent)) is not None


async def test_what_has_ended_or_is_gone_cannot_be_cancelled(registry: Registry) -> None:
    parent = await invoke(registry)
    child = await invoke(registry, parent)
    await end(registry, parent)
    with pytest.raises(InvocationIsAlreadyTerminatedError):
        await cancel(registry, parent)
    assert await requested_at(registry, child) is None
    with pytest.raises(InvocationDoesNotExistError):
        await cancel(registry, InvocationId("inv-none"))


async def test_a_grandchild_that_is_committed_during_the_cancel_is_not_missed(
    registry: Registry,
) -> None:
    """CAN-7: it is created after the cancel has looked, and before it holds the lock."""
    top = await invoke(registry)
    child = await invoke(registry, top)
    async with registry.transaction() as creator:
        created = await create_invocation(
            creator,
            project_name="p",
            version_id=None,
            function_name="f",
            input_="",
            parent=ParentInvocationDefinition(function_name="f", invocation_id=child),
        )
        # It has seen the child, and waits for the lock that the creation holds.
        cancelling = asyncio.create_task(cancel(registry, top))
        await until_somebody_waits_for_a_lock(registry)
    grandchild = InvocationId(created.invocation.id)
    assert await cancelling == [top, child, grandchild]
    assert await requested_at(registry, grandchild) is not None


async def test_a_growing_tree_and_a_cancel_never_miss_each_other(registry: Registry) -> None:
    """CAN-7: whoever is created, before, during or after, has a request in the end."""
    for _ in range(5):
        top = await invoke(registry)
        made = [top]

        async def grow(made: list[InvocationId] = made) -> None:
            for _ in range(8):
                made.append(await invoke(registry, made[-1]))

        growing = [asyncio.create_task(grow()) for _ in range(2)]
        while len(made) < 4:
            await asyncio.wait(growing, timeout=0.001)
        await cancel(registry, top)
        await asyncio.gather(*growing)
        assert [i for i in made if await requested_at(registry, i) is None] == []

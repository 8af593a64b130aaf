"""Queries below HTTP: their number, and what the database itself refuses."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from core.clock import utc_now
from core.contract.functions import ExecutionSpec, FunctionSpec, ResourceSpec
from core.contract.paging import InvocationOffset
from core.ids import InvocationId, execution_id_of_run
from core.states import InvocationStatus, WorkerStatus
from registry.database.engine import Registry
from registry.database.tables import Execution, Function, Invocation, Project, Version
from registry.queries.invocation_pages import list_invocations
from registry.queries.invocations import InvocationDetails, create_invocation, get_invocation
from registry.queries.paths import FunctionPath, InvocationPath
from registry.queries.projects import create_project
from registry.queries.versions import create_version, get_version

SPEC = FunctionSpec(
    function_name="f",
    resource_spec=ResourceSpec(virtual_cpus=1, memory_gbs=1, max_concurrency=1),
    execution_spec=ExecutionSpec(max_retries=0, timeout_seconds=1),
)
FUNCTION = FunctionPath(project_name="p", version_id=None, function_name="f")


@contextmanager
def statements_of(registry: Registry) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(*arguments: object) -> None:
        seen.append(str(arguments[2]))

    engine = registry.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


@pytest.fixture
async def created(registry: Registry) -> InvocationDetails:
    async with registry.transaction() as session:
        await create_project(session, name="p")
        await create_version(
            session, project_name="p", default_docker_image="i", functions=[SPEC], default_pool="p"
        )
    async with registry.transaction() as session:
        return await create_invocation(
            session,
            project_name="p",
            version_id=None,
            function_name="f",
            input_="first",
            parent=None,
        )


async def test_an_invocation_is_read_in_three_statements(
    registry: Registry, created: InvocationDetails
) -> None:
    with statements_of(registry) as statements:
        async with registry.transaction() as session:
            path = InvocationPath(
                project_name="p",
                version_id=None,
                function_name="f",
                invocation_id=InvocationId(created.invocation.id),
            )
            seen = await get_invocation(session, path)
    assert seen.invocation.input == "first"
    assert len(statements) <= 3


async def test_a_list_does_not_load_inputs(registry: Registry, created: InvocationDetails) -> None:
    with statements_of(registry) as statements:
        async with registry.transaction() as session:
            page = await list_invocations(session, FUNCTION, page_size=10)
    assert [entry.invocation.id for entry in page.entries] == [created.invocation.id]
    assert len(statements) == 2
    assert not any("invocations.input" in statement for statement in statements)


async def test_ver_4_inv_d2_exe_2_an_id_occurs_once_and_the_first_is_kept(
    registry: Registry, created: InvocationDetails
) -> None:
    now = utc_now()
    function_id, invocation_id = created.context.function.id, created.invocation.id
    project_id, version_id = created.context.project.id, created.context.version.id
    execution = {
        "id": execution_id_of_run("0198c0de-0000-7000-8000-000000000000"),
        "invocation_id": invocation_id,
        "function_id": function_id,
        "worker_status": WorkerStatus.TERMINATED,
        "created_at": now,
        "updated_at": now,
    }
    async with registry.transaction() as session:
        session.add(Execution(attempt=1, pool="first", **execution))
    second_ones = (
        Project(id="prj-2", name="p", created_at=now),
        Version(id=version_id, project_id=project_id, created_at=now),
        Invocation(
            id=invocation_id,
            function_id=function_id,
            input="second",
            created_at=now,
            updated_at=now,
        ),
        Execution(attempt=2, pool="second", **execution),
        _second_function(created, now_id="fun-2"),
    )
    for second in second_ones:
        with pytest.raises(IntegrityError):
            async with registry.transaction() as session:
                session.add(second)
    async with registry.transaction() as session:
        invocation = await session.get_one(Invocation, invocation_id)
        assert invocation.input == "first"
        kept = await session.get_one(Execution, execution["id"])
        assert kept.pool == "first"
        version = await get_version(session, FUNCTION)
        assert version.version.created_at == created.context.version.created_at


def _second_function(created: InvocationDetails, *, now_id: str) -> Function:
    first = created.context.function
    return Function(
        id=now_id,
        version_id=first.version_id,
        name=first.name,
        docker_image="second",
        virtual_cpus=1,
        memory_gbs=1,
        max_concurrency=1,
        max_retries=0,
        timeout_seconds=1,
        created_at=first.created_at,
    )


async def test_del_2_nothing_is_left_of_a_deleted_project(
    registry: Registry, created: InvocationDetails
) -> None:
    async with registry.transaction() as session:
        await session.delete(await session.get_one(Project, created.context.project.id))
    async with registry.transaction() as session:
        assert await session.get(Version, created.context.version.id) is None
        assert await session.get(Function, created.context.function.id) is None
        assert await session.get(Invocation, created.invocation.id) is None


async def test_pages_follow_the_filters(registry: Registry, created: InvocationDetails) -> None:
    async with registry.transaction() as session:
        for status, expected in ((InvocationStatus.RUNNING, 1), (InvocationStatus.TERMINATED, 0)):
            page = await list_invocations(
                session,
                FUNCTION,
                page_size=1,
                offset=InvocationOffset(2**60, created.invocation.id),
                status=status,
            )
            assert len(page.entries) == expected
            assert page.next_offset is None

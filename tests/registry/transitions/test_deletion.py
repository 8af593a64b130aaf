"""A project's rows, as the deletion's activities end and delete them: rules DEL and CAN."""

import asyncio
import uuid
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment

from activities.deletion import DeletionActivities
from core.clock import utc_now
from core.contract.functions import ExecutionSpec, FunctionSpec, ResourceSpec
from core.contract.invocations import ParentInvocationDefinition
from core.errors import (
    ControlPlaneError,
    FunctionDoesNotExistError,
    ProjectDoesNotExistError,
    VersionDoesNotExistError,
)
from core.ids import InvocationId, ProjectId, execution_id_of_run
from core.messages import ProjectCancelRequest, ProjectRowsProgress, ProjectRowsRequest
from core.states import InvocationStatus, Outcome, Phase, WorkerStatus
from registry.database.engine import Registry
from registry.database.tables import Execution, Function, Invocation, LogChunk, Project, Version
from registry.queries.invocations import create_invocation
from registry.queries.projects import create_project
from registry.queries.versions import create_version
from registry.transitions.deletion import ROWS_AT_ONCE, cancel_some, request_project_deletion
from tests.support.harness import eventually_true
from tests.support.locks import until_somebody_waits_for_a_lock

TABLES = (Project, Version, Function, Invocation, Execution, LogChunk)
EARLIER = datetime(2020, 1, 1, tzinfo=UTC)


def spec(name: str) -> FunctionSpec:
    return FunctionSpec(
        function_name=name,
        resource_spec=ResourceSpec(virtual_cpus=1, memory_gbs=1, max_concurrency=1),
        execution_spec=ExecutionSpec(max_retries=0, timeout_seconds=60),
    )


class Rows:
    """Makes rows of a project as the API and the activities do."""

    def __init__(self, registry: Registry, project_id: ProjectId, name: str) -> None:
        self.registry = registry
        self.project_id = project_id
        self.name = name

    async def deploy(self, *functions: str) -> None:
        async with self.registry.transaction() as session:
            await create_version(
                session,
                project_name=self.name,
                default_docker_image="i",
                functions=[spec(function) for function in functions],
                default_pool="p",
            )

    async def invoke(self, function: str = "f", parent: InvocationId | None = None) -> InvocationId:
        async with self.registry.transaction() as session:
            created = await create_invocation(
                session,
                project_name=self.name,
                version_id=None,
                function_name=function,
                input_="",
                parent=None
                if parent is None
                else ParentInvocationDefinition(function_name="f", invocation_id=parent),
            )
        return InvocationId(created.invocation.id)

    async def change(self, invocation_id: InvocationId, **values: object) -> None:
        async with self.registry.transaction() as session:
            row = await session.get_one(Invocation, invocation_id)
            for name, value in values.items():
                setattr(row, name, value)

    async def look(self, invocation_id: InvocationId) -> Invocation:
        async with self.registry.autocommit() as session:
            return await session.get_one(Invocation, invocation_id)

    async def execute(
        self,
        invocation_id: InvocationId,
        *,
        attempt: int = 1,
        status: WorkerStatus = WorkerStatus.TERMINATED,
        chunks: int = 0,
    ) -> None:
        execution_id = execution_id_of_run(str(uuid.uuid4()))
        async with self.registry.transaction() as session:
            invocation = await session.get_one(Invocation, invocation_id)
            session.add(
                Execution(
                    id=execution_id,
                    invocation_id=invocation_id,
                    function_id=invocation.function_id,
                    attempt=attempt,
                    worker_status=status,
                    pool="p",
                    started_at=utc_now(),
                    outcome=Outcome.SUCCEEDED if status is WorkerStatus.TERMINATED else None,
                    created_at=utc_now(),
                    updated_at=utc_now(),
                )
            )
            await session.flush()
            session.add_all(
                LogChunk(
                    execution_id=execution_id,
                    first_line=number,
                    next_line=number + 1,
                    lines=["line"],
                    next_offset=str(number),
                )
                for number in range(chunks)
            )

    async def end(self, invocation_id: InvocationId) -> None:
        await self.change(
            invocation_id,
            status=InvocationStatus.TERMINATED,
            phase=Phase.SUCCEEDED,
            queue_reason=None,
            terminated_at=utc_now(),
        )

    async def request_deletion(self) -> None:
        async with self.registry.transaction() as session:
            await request_project_deletion(session, name=self.name)


async def new_project(registry: Registry, name: str) -> Rows:
    async with registry.transaction() as session:
        project = await create_project(session, name=name)
    rows = Rows(registry, ProjectId(project.id), name)
    await rows.deploy("f", "g")
    return rows


@pytest.fixture
async def shop(registry: Registry) -> Rows:
    return await new_project(registry, "shop")


@pytest.fixture
def activities(registry: Registry, temporal_client: Client) -> DeletionActivities:
    return DeletionActivities(registry, temporal_client)


async def delete_rows(activities: DeletionActivities, project: Rows) -> ProjectRowsProgress:
    return await ActivityEnvironment().run(
        activities.delete_project_rows, ProjectRowsRequest(project_id=project.project_id)
    )


async def cancel(activities: DeletionActivities, project: Rows) -> tuple[int, int]:
    """Returns how many were ended, and how many run."""
    done = await ActivityEnvironment().run(
        activities.cancel_project, ProjectCancelRequest(project_id=project.project_id)
    )
    assert done.next_function is None
    return done.ended, done.running


async def count(registry: Registry) -> list[int]:
    async with registry.autocommit() as session:
        return [
            await session.scalar(select(func.count()).select_from(table)) or 0 for table in TABLES
        ]


async def test_del_2_everything_of_a_project_goes_and_another_one_stays(
    registry: Registry, shop: Rows, activities: DeletionActivities
) -> None:
    """DEL-2: two versions, parents and children, executions and more log than goes at once."""
    other = await new_project(registry, "other")
    kept = await other.invoke()
    await other.execute(kept, chunks=1)
    before = await count(registry)
    parent = await shop.invoke()
    child = await shop.invoke("g", parent)
    grandchild = await shop.invoke("f")
    await shop.change(grandchild, parent_id=child)
    for invocation_id in (parent, child, grandchild):
        await shop.execute(invocation_id, attempt=1, chunks=ROWS_AT_ONCE + 1)
        await shop.execute(invocation_id, attempt=2)
        await shop.end(invocation_id)
    await shop.deploy("h")
    await shop.end(await shop.invoke("h"))
    await shop.request_deletion()

    assert await delete_rows(activities, shop) == ProjectRowsProgress(invocations=4, complete=True)
    # The project, its version, its two functions.
    assert await count(registry) == [1, 1, 2, *before[3:]]
    assert (await other.look(kept)).status == InvocationStatus.RUNNING
    # Done again after a crash: there is nothing to do.
    assert await delete_rows(activities, shop) == ProjectRowsProgress()


async def test_a_child_that_is_older_than_its_parent_goes_too(
    registry: Registry, shop: Rows, activities: DeletionActivities
) -> None:
    """API processes have clocks of their own: ids may be in the wrong order."""
    children = [await shop.invoke() for _ in range(3)]
    parent = await shop.invoke()
    for child in children:
        await shop.change(child, parent_id=parent)
        await shop.end(child)
    await shop.end(parent)
    await shop.request_deletion()
    assert await delete_rows(activities, shop) == ProjectRowsProgress(invocations=4, complete=True)
    assert await count(registry) == [0] * len(TABLES)


async def test_del_1_rows_of_a_running_execution_are_never_deleted(
    registry: Registry, shop: Rows, activities: DeletionActivities
) -> None:
    running = await shop.invoke()
    await shop.execute(running, status=WorkerStatus.RUNNING, chunks=1)
    await shop.request_deletion()
    assert await delete_rows(activities, shop) == ProjectRowsProgress(complete=False)
    assert await count(registry) == [1, 1, 2, 1, 1, 1]


async def test_del_1_a_project_that_nobody_wants_deleted_is_left_alone(
    registry: Registry, shop: Rows, activities: DeletionActivities
) -> None:
    await shop.end(await shop.invoke())
    before = await count(registry)
    for step in (delete_rows, cancel):
        with pytest.raises(Exception, match="no user has asked"):
            await step(activities, shop)
    assert await count(registry) == before


async def test_can_9_what_was_cancelled_before_keeps_its_time(
    shop: Rows, activities: DeletionActivities
) -> None:
    """CAN-8, CAN-9: a request of its own for each, and the first time is kept."""
    cancelled, waiting, running = [await shop.invoke() for _ in range(3)]
    await shop.change(cancelled, cancellation_requested_at=EARLIER)
    await shop.execute(running, status=WorkerStatus.RUNNING)
    again = await shop.invoke("g")
    await shop.execute(again, status=WorkerStatus.RUNNING)
    await shop.change(again, cancellation_requested_at=EARLIER, phase=Phase.CANCELLING)
    await shop.request_deletion()

    assert await cancel(activities, shop) == (2, 2)
    for invocation_id, first in ((cancelled, True), (waiting, False)):
        row = await shop.look(invocation_id)
        assert (row.status, row.phase) == (InvocationStatus.TERMINATED, Phase.CANCELLED)
        assert (row.cancellation_requested_at == EARLIER) is first
        assert row.cancellation_requested_at is not None
    for invocation_id, first in ((again, True), (running, False)):
        row = await shop.look(invocation_id)
        assert (row.status, row.phase) == (InvocationStatus.RUNNING, Phase.CANCELLING)
        assert (row.cancellation_requested_at == EARLIER) is first
        assert row.cancellation_requested_at is not None
    assert await cancel(activities, shop) == (0, 2)


async def test_ended_rows_remember_that_their_workflows_are_to_be_ended(
    registry: Registry, shop: Rows, activities: DeletionActivities
) -> None:
    """Temporal is away, or the Temporal worker dies, between the two."""
    waiting = await shop.invoke()
    await shop.request_deletion()
    dead = await Client.connect("127.0.0.1:1", lazy=True)
    with pytest.raises((RPCError, RuntimeError)):
        await cancel(DeletionActivities(registry, dead), shop)
    assert (await shop.look(waiting)).workflow_to_end
    assert await cancel(activities, shop) == (0, 0)
    with pytest.raises((RPCError, RuntimeError)):
        await delete_rows(DeletionActivities(registry, dead), shop)
    assert (await shop.look(waiting)).status == InvocationStatus.TERMINATED
    assert (await delete_rows(activities, shop)).complete


async def test_more_than_one_transaction_may_end_are_ended(
    registry: Registry, shop: Rows, activities: DeletionActivities
) -> None:
    async with registry.transaction() as session:
        function_id = await session.scalar(select(Function.id).where(Function.name == "g"))
        assert function_id is not None
        now = utc_now()
        session.add_all(
            Invocation(
                id=f"inv-{number:032x}",
                function_id=function_id,
                input="",
                pool="p",
                created_at=now,
                updated_at=now,
            )
            for number in range(2 * ROWS_AT_ONCE + 1)
        )
    await shop.request_deletion()
    assert await cancel(activities, shop) == (2 * ROWS_AT_ONCE + 1, 0)
    done = await delete_rows(activities, shop)
    assert done == ProjectRowsProgress(invocations=2 * ROWS_AT_ONCE + 1, complete=True)


async def test_a_function_that_is_gone_has_nothing_to_cancel(registry: Registry) -> None:
    async with registry.transaction() as session:
        cancelled = await cancel_some(session, "fun-none")  # type: ignore[arg-type] # no such id
    assert (cancelled.ended, cancelled.running) == ((), ())


async def test_calls_that_race_with_the_end_of_their_project_get_clean_answers(
    registry: Registry, shop: Rows, activities: DeletionActivities
) -> None:
    """Accepted, or a 404 that names what is gone; and nothing is left behind."""
    await shop.deploy("f", *(f"f-{number}" for number in range(300)))
    refusals: list[ControlPlaneError] = []
    accepted: list[InvocationId] = []

    async def keep_calling() -> None:
        while True:
            try:
                accepted.append(await shop.invoke())
            except ControlPlaneError as error:
                refusals.append(error)
                if isinstance(error, ProjectDoesNotExistError):
                    return

    async def delete() -> None:
        await eventually_true(lambda: len(accepted) > 20)
        await shop.request_deletion()
        complete = False
        while not complete:
            await cancel(activities, shop)
            complete = (await delete_rows(activities, shop)).complete

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(keep_calling())
        group.create_task(delete())
    assert {type(refusal) for refusal in refusals} <= {
        ProjectDoesNotExistError,
        VersionDoesNotExistError,
        FunctionDoesNotExistError,
    }
    assert await count(registry) == [0] * len(TABLES)


async def test_a_function_that_goes_during_the_call_is_a_404(
    registry: Registry, shop: Rows
) -> None:
    """The insert finds it gone, after the path was found."""
    async with registry.transaction() as blocker:
        function = await blocker.scalar(select(Function).where(Function.name == "f"))
        await blocker.delete(function)
        await blocker.flush()
        call = asyncio.create_task(shop.invoke("f"))
        await until_somebody_waits_for_a_lock(registry)
    with pytest.raises(FunctionDoesNotExistError):
        await call

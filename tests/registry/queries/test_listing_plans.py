"""Pages cost what their size costs, not what the table's does: seen in the plans that Postgres ran.

Times would depend on the machine; rows that are read and thrown away do not.
"""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import event, func, select, text, update

from bench.rows import ASIDE, ENDED, FUNCTIONS, ONE_OF_MANY, PROJECT, QUEUED, Filled, fill
from core.contract.invocations import ParentInvocationDefinition
from core.contract.paging import InvocationOffset
from core.ids import FunctionId, InvocationId, creation_time_of
from core.states import InvocationStatus, Phase, QueueReason
from registry.database.engine import Registry
from registry.database.tables import Execution, Function, Invocation
from registry.queries.invocation_pages import InvocationPage, list_children, list_invocations
from registry.queries.invocations import MAX_QUEUE_POSITION, get_invocation
from registry.queries.logs import find_log_place
from registry.queries.paths import FunctionPath, InvocationPath
from registry.transitions.slots import lock_function, offer_slots
from tests.support.harness import Json

ROWS = 10_000
PAGE = 50
Statement = tuple[str, Any]


@pytest.fixture
async def filled(registry: Registry) -> Filled:
    return await fill(registry, rows=ROWS)


@contextmanager
def statements_of(registry: Registry) -> Iterator[list[Statement]]:
    seen: list[Statement] = []

    def note(*arguments: Any) -> None:
        seen.append((arguments[2], arguments[3]))

    engine = registry.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


async def plans_of(registry: Registry, statements: list[Statement]) -> list[Json]:
    """Run the statements again; returns all nodes of their plans."""
    nodes: list[Json] = []
    async with registry.engine.connect() as connection:
        for statement, parameters in statements:
            explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
            answer = await connection.exec_driver_sql(explain, parameters)
            nodes += flatten(answer.scalar_one()[0]["Plan"])
    return nodes


def flatten(plan: Json) -> Iterator[Json]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from flatten(child)


def wasteful(nodes: list[Json], *, rows: int) -> list[Json]:
    """The nodes that sort more than `rows`, read more of the invocations, or throw some away."""
    return [
        {key: value for key, value in node.items() if key != "Plans"}
        for node in nodes
        # The other tables are so small here that a scan may be the best plan.
        if (node["Node Type"] == "Sort" or node.get("Relation Name") == "invocations")
        and (
            node["Node Type"] == "Seq Scan"
            or node["Actual Rows"] * node["Actual Loops"] > rows
            or node.get("Rows Removed by Filter", 0) > 0
            or _reads_on(node)
        )
    ]


def _reads_on(node: Json) -> bool:
    """Whether an index is read beyond what is given: those entries are counted nowhere else."""
    looked_up = node["Actual Loops"] * (node["Actual Rows"] + 1)
    blocks: int = node["Shared Hit Blocks"] + node["Shared Read Blocks"]
    return "Scan" in node["Node Type"] and blocks > 8 * (looked_up + 1)


def middle_of(filled: Filled) -> InvocationOffset:
    """An offset that names no invocation, half way between the parent and the newest ones."""
    oldest = int(creation_time_of(filled.parent_id).timestamp())
    return InvocationOffset(oldest + ROWS // 2 // 50, "inv-g")


async def page_of(
    registry: Registry,
    filled: Filled,
    function: str,
    *,
    size: int = PAGE,
    offset: InvocationOffset | None = None,
    status: InvocationStatus | None = None,
    of_parent: bool = False,
) -> InvocationPage:
    async with registry.autocommit() as session:
        return await list_invocations(
            session,
            FunctionPath(
                project_name=PROJECT, version_id=filled.version_id, function_name=function
            ),
            page_size=size,
            offset=offset,
            status=status,
            parent=ParentInvocationDefinition(function_name=ENDED, invocation_id=filled.parent_id)
            if of_parent
            else None,
        )


async def test_each_page_of_each_filter_is_a_range_of_an_index(
    registry: Registry, filled: Filled
) -> None:
    middle = middle_of(filled)
    last = InvocationOffset(int(creation_time_of(filled.parent_id).timestamp()) + 1, "inv-0")
    combinations = itertools.product(
        (ENDED, QUEUED, ASIDE, ONE_OF_MANY),
        (None, *InvocationStatus),
        (False, True),
        (None, middle, last),
        (0, 1, PAGE),
    )
    for function, status, of_parent, offset, size in combinations:
        with statements_of(registry) as seen:
            await page_of(
                registry,
                filled,
                function,
                size=size,
                offset=offset,
                status=status,
                of_parent=of_parent,
            )
        # Both statuses are read as far as a page, then merged.
        waste = wasteful(await plans_of(registry, seen), rows=2 * (size + 1))
        case = (function, status, of_parent, offset, size)
        assert waste == [], f"{case}:\n{json.dumps(waste, indent=1, default=str)}"


async def test_each_page_of_children_is_some_ranges_of_an_index(
    registry: Registry, filled: Filled
) -> None:
    """One range for each status of each function, none read further than a page."""
    offset, seen_children = None, 0
    for size in (0, 1, PAGE):
        for offset in (None, middle_of(filled), InvocationOffset(0, "inv-0")):
            with statements_of(registry) as seen:
                async with registry.autocommit() as session:
                    page = await list_children(
                        session, InvocationId(filled.parent_id), page_size=size, offset=offset
                    )
            seen_children += len(page.entries)
            ranges = 2 * len(FUNCTIONS)
            plans = await plans_of(registry, seen)
            read = [node for node in plans if node.get("Relation Name") == "invocations"]
            # All that is read is sorted once, which is more than one page.
            waste = wasteful(read, rows=ranges * (size + 1))
            assert waste == [], f"{size}, {offset}:\n{json.dumps(waste, indent=1, default=str)}"
            # Each lookup of a range gives a page at most.
            assert all(node["Actual Rows"] <= size + 1 for node in read)
    assert seen_children == 2 * (1 + PAGE)


async def test_the_end_of_a_long_log_is_found_from_its_end(
    registry: Registry, filled: Filled
) -> None:
    execution_id = f"exe-{'1' * 32}"
    async with registry.engine.begin() as connection:
        await connection.execute(
            text(
                """
                INSERT INTO executions
                    (id, invocation_id, function_id, attempt, provisioner)
                SELECT :id, id, function_id, 1, 'process' FROM invocations WHERE id = :parent
                """
            ),
            {"id": execution_id, "parent": filled.parent_id},
        )
        await connection.execute(
            text(
                """
                INSERT INTO log_chunks
                    (execution_id, first_line, next_line, lines, next_offset, copied_at)
                SELECT :id, n, n + 1, ARRAY['line ' || n], '', to_timestamp(n)
                FROM generate_series(0, 9999) AS n
                """
            ),
            {"id": execution_id},
        )
        await connection.execute(text("ANALYZE log_chunks"))
    async with registry.autocommit() as session:
        execution = await session.get_one(Execution, execution_id)
        with statements_of(registry) as seen:
            since = datetime.fromtimestamp(9990, UTC)
            assert await find_log_place(session, execution, since=since) == 9990
            assert await find_log_place(session, execution, tail=100) == 9900
    read = [
        node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        for node in await plans_of(registry, seen)
        if "Scan" in node["Node Type"]
    ]
    assert read == [11, 1]


async def test_the_place_of_one_of_many_that_wait_is_counted_up_to_a_limit(
    registry: Registry, filled: Filled
) -> None:
    async with registry.autocommit() as session:
        oldest, newest = (
            await session.execute(
                select(func.min(Invocation.id), func.max(Invocation.id))
                .join(Function, Function.id == Invocation.function_id)
                .where(Function.name == QUEUED, Invocation.status == InvocationStatus.RUNNING)
            )
        ).one()
    positions = []
    for invocation_id in (newest, oldest):
        with statements_of(registry) as seen:
            async with registry.autocommit() as session:
                details = await get_invocation(
                    session,
                    InvocationPath(
                        project_name=PROJECT,
                        version_id=filled.version_id,
                        function_name=QUEUED,
                        invocation_id=InvocationId(invocation_id),
                    ),
                )
        positions.append(details.queue_position)
        assert wasteful(await plans_of(registry, seen), rows=MAX_QUEUE_POSITION) == []
    assert positions == [MAX_QUEUE_POSITION, 1]


async def test_a_page_that_would_be_searched_for_is_found_wasteful(
    registry: Registry, filled: Filled
) -> None:
    """The check itself: without its index, the same list does read and throw away."""
    async with registry.engine.begin() as connection:
        await connection.execute(text("DROP INDEX ix_invocations_function_id_status_id"))
    with statements_of(registry) as seen:
        await page_of(registry, filled, ENDED, status=InvocationStatus.RUNNING)
    assert wasteful(await plans_of(registry, seen), rows=2 * (PAGE + 1))


@pytest.mark.usefixtures("filled")
async def test_whom_to_call_for_a_slot_is_found_without_reading_the_queue(
    registry: Registry,
) -> None:
    """Each close of an execution asks for it, under the lock of the function."""
    async with registry.transaction() as session:
        function = (await session.scalars(select(Function).where(Function.name == QUEUED))).one()
        # Two of those who wait have been called; the function has room for no more.
        called = select(Invocation.id).where(
            Invocation.function_id == function.id, Invocation.phase == Phase.QUEUED
        )
        await session.execute(
            update(Invocation)
            .where(Invocation.id.in_(called.order_by(Invocation.id.desc()).limit(2)))
            .values(queue_reason=QueueReason.OFFERED, offered_by="exe-1")
        )
        function.max_concurrency = 2
    async with registry.transaction() as session:
        found = await lock_function(session, FunctionId(function.id))
        assert found is not None
        with statements_of(registry) as statements:
            again = await offer_slots(session, found.function, offered_by="exe-1")
    assert len(again) == 2
    nodes = await plans_of(registry, statements)
    assert wasteful(nodes, rows=3) == []

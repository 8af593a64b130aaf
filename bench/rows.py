"""Fills a registry with invocations by SQL: a million rows take seconds, not hours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text

from core.clock import utc_now
from core.contract.functions import ExecutionSpec, FunctionSpec, ResourceSpec
from core.ids import VersionId
from registry.database.engine import Registry
from registry.queries.projects import create_project
from registry.queries.versions import create_version

PROJECT: Final = "bench"
ENDED: Final = "ended"
"""All of its invocations are TERMINATED, except its oldest ones."""
QUEUED: Final = "queued"
"""All of its invocations are RUNNING and wait for a slot, except its oldest ones."""
ONE_OF_MANY: Final = "one-of-many-50"
"""One of a hundred functions that share some more invocations."""
ASIDE: Final = "aside"
"""Has eleven invocations; one is a child of the parent that one in eleven of all others has."""
EXCEPTIONS: Final = 100
"""Invocations of the rarer status: the oldest ones, where a scan would come to them last."""

FUNCTIONS: Final = (ENDED, QUEUED, ASIDE, *(f"one-of-many-{number}" for number in range(100)))
_MILLISECONDS_APART = 20

_INSERT = text(
    """
    INSERT INTO invocations (
        id, function_id, parent_id, input, provisioner, status, phase, queue_reason,
        created_at, updated_at, terminated_at
    )
    SELECT
        -- As core.ids makes them: 48 bits of milliseconds, the version, random bits.
        'inv-' || lpad(to_hex(milliseconds), 12, '0') || '7' || substr(digest, 1, 3)
            || '8' || substr(digest, 4, 15),
        (CAST(:functions AS text[]))[1 + number % cardinality(CAST(:functions AS text[]))],
        CASE WHEN number % 11 = 10 THEN CAST(:parent AS text) END,
        '{"argument": 1}',
        'process',
        CASE WHEN runs THEN 'RUNNING' ELSE 'TERMINATED' END,
        CASE WHEN runs THEN 'QUEUED' ELSE 'SUCCEEDED' END,
        CASE WHEN runs THEN 'function_limit' END,
        to_timestamp(milliseconds / 1000.0),
        to_timestamp(milliseconds / 1000.0),
        CASE WHEN NOT runs THEN to_timestamp(milliseconds / 1000.0) END
    FROM (
        SELECT
            number,
            md5(CAST(:salt AS text) || number) AS digest,
            CAST(:began AS bigint) + CAST(number AS bigint) * CAST(:apart AS bigint)
                AS milliseconds,
            (number < CAST(:exceptions AS integer)) <> CAST(:mostly_running AS boolean) AS runs
        FROM generate_series(0, CAST(:rows AS integer) - 1) AS number
    ) AS numbers
    """
)
_OLDEST = text("SELECT min(id) FROM invocations")


@dataclass(frozen=True, kw_only=True)
class Filled:
    """Where the rows are."""

    version_id: VersionId
    parent_id: str
    """The oldest invocation of `ENDED`, parent of one in eleven of all others."""


def _spec(name: str) -> FunctionSpec:
    return FunctionSpec(
        function_name=name,
        resource_spec=ResourceSpec(virtual_cpus=1, memory_gbs=1, max_concurrency=1),
        execution_spec=ExecutionSpec(max_retries=0, timeout_seconds=1),
    )


async def fill(registry: Registry, *, rows: int) -> Filled:
    """Make a version with `rows` invocations of `ENDED`, and more of other functions.

    `QUEUED` gets as many, a hundred functions a tenth of that together, `ASIDE` eleven. The newest
    have been created a moment ago, each 20 ms after the one before.
    """
    async with registry.transaction() as session:
        await create_project(session, name=PROJECT)
        version = await create_version(
            session,
            project_name=PROJECT,
            default_docker_image="image",
            functions=[_spec(name) for name in FUNCTIONS],
            default_pool="process",
        )
    ids = {function.name: function.id for function in version.functions}
    many = [ids[name] for name in FUNCTIONS if name.startswith("one-of-many-")]
    await _insert(registry, [ids[ENDED]], rows=1, parent=None, mostly_running=False, oldest=rows)
    async with registry.transaction() as session:
        parent_id = str(await session.scalar(_OLDEST))
    for functions, count, mostly_running in (
        ([ids[ENDED]], rows - 1, False),
        ([ids[QUEUED]], rows, True),
        (many, rows // 10, False),
    ):
        await _insert(
            registry, functions, rows=count, parent=parent_id, mostly_running=mostly_running
        )
    await _insert(registry, [ids[ASIDE]], rows=11, parent=parent_id, mostly_running=False)
    async with registry.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM ANALYZE"))
    return Filled(version_id=VersionId(version.version.id), parent_id=parent_id)


async def _insert(
    registry: Registry,
    functions: Sequence[str],
    *,
    rows: int,
    parent: str | None,
    mostly_running: bool,
    oldest: int | None = None,
) -> None:
    began = int(utc_now().timestamp() * 1000) - _MILLISECONDS_APART * (oldest or rows)
    async with registry.transaction() as session:
        await session.execute(
            _INSERT,
            {
                "functions": list(functions),
                "parent": parent,
                "salt": functions[0],
                "began": began,
                "apart": _MILLISECONDS_APART,
                "exceptions": EXCEPTIONS,
                "mostly_running": mostly_running,
                "rows": rows,
            },
        )

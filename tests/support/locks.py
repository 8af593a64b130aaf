"""Locks, as the tests see them."""

from sqlalchemy import text

from registry.database.engine import Registry
from tests.support.harness import eventually

_BLOCKED = text(
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


async def until_somebody_waits_for_a_lock(registry: Registry) -> None:
    """Wait until a statement waits for a lock in this test's database."""

    async def look() -> int:
        async with registry.autocommit() as session:
            return await session.scalar(_BLOCKED) or 0

    await eventually(look, bool)

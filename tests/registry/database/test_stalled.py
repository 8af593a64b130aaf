"""A process that stands still in the middle of a transaction keeps nobody else waiting."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from core.settings import RegistrySettings
from registry.database.engine import Registry

_LOCK = text("SELECT pg_advisory_xact_lock(1)")


async def test_the_locks_of_a_stalled_transaction_go_to_others(
    registry: Registry, registry_settings: RegistrySettings
) -> None:
    stalled = Registry(registry_settings, stalled_seconds=0.5)

    async def stand_still_with_the_lock() -> None:
        async with stalled.transaction() as session:
            await session.execute(_LOCK)
            async with asyncio.timeout(30), registry.transaction() as other:
                await other.execute(_LOCK)
            await session.execute(_LOCK)

    try:
        # The error comes with the first statement after the standstill.
        with pytest.raises(DBAPIError, match="idle-in-transaction"):
            await stand_still_with_the_lock()
        # The next one has a connection that works.
        async with stalled.autocommit() as session:
            await session.execute(_LOCK)
    finally:
        await stalled.close()


async def test_every_connection_has_the_limit(registry: Registry) -> None:
    async with registry.autocommit() as session:
        limit = await session.scalar(text("SHOW idle_in_transaction_session_timeout"))
    assert limit == "10s"

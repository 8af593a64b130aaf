"""The registry's tables for the life of a process: `--create-tables` and `--delete-tables`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from core.settings import RegistrySettings
from registry.database.migrate import drop_all_tables, upgrade


@asynccontextmanager
async def managed_tables(
    settings: RegistrySettings, *, create: bool, delete: bool
) -> AsyncIterator[None]:
    """Bring the tables up to date before the block, and drop them after it, if asked to.

    Raises:
        OperationalError: Postgres does not answer in time.
    """
    if create:
        await asyncio.to_thread(upgrade, settings, wait_seconds=settings.postgres_wait_seconds)
    try:
        yield
    finally:
        if delete:
            await asyncio.to_thread(drop_all_tables, settings)

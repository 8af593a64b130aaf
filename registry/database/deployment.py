"""Which control plane this is: the name that its workers carry where several share compute."""

import asyncio
from contextlib import suppress

import structlog
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from registry.database.engine import Registry

logger = structlog.get_logger(__name__)

_LONGEST_PAUSE = 5.0
"""Seconds between two tries to reach Postgres, at most."""

_IDENTITY = text(
    "SELECT to_hex(system_identifier) || '-' || oid"
    " FROM pg_control_system(), pg_database WHERE datname = current_database()"
)


async def get_deployment(session: AsyncSession) -> str:
    """Give a name of this registry that no other has: of the Postgres cluster and the database.

    It outlives restarts and dropped tables, so that workers left over from before are found.
    """
    name: str = (await session.execute(_IDENTITY)).scalar_one()
    return name


async def wait_for_registry(registry: Registry, *, stop: asyncio.Event) -> None:
    """Return as soon as Postgres answers, however long that takes, or `stop` is set."""
    pause = 0.2
    while not stop.is_set():
        try:
            async with registry.autocommit() as session:
                await get_deployment(session)
        except OperationalError as error:
            logger.warning("postgres_does_not_answer", error=str(error.orig))
        else:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause)
        pause = min(2 * pause, _LONGEST_PAUSE)

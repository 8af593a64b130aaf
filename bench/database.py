"""What only the registry knows of a running stack, read beside it."""

import asyncio
from typing import Any

import psycopg

from core.settings import RegistrySettings


def _read(settings: RegistrySettings, query: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
    with psycopg.connect(
        host=settings.postgres_host,
        port=settings.postgres_port,
        user=settings.postgres_user,
        password=settings.postgres_password.get_secret_value(),
        dbname=settings.postgres_db,
        autocommit=True,
    ) as database:
        return database.execute(query, values).fetchall()


async def rows(settings: RegistrySettings, query: str, **values: object) -> list[tuple[Any, ...]]:
    """Give all rows of a query, over a connection of its own."""
    return await asyncio.to_thread(_read, settings, query, values)

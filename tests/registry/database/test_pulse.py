import asyncio
from contextlib import suppress

import psycopg
import pytest

from core.settings import RegistrySettings
from registry.database.pulse import Connection, patiently
from tests.support.harness import eventually_true


async def test_a_connection_that_comes_too_late_is_closed(
    registry_settings: RegistrySettings,
) -> None:
    made: list[Connection] = []

    async def connect_too_late() -> Connection:
        made.append(
            await psycopg.AsyncConnection.connect(
                host=registry_settings.postgres_host,
                port=registry_settings.postgres_port,
                user=registry_settings.postgres_user,
                password=registry_settings.postgres_password.get_secret_value(),
                dbname=registry_settings.postgres_db,
            )
        )
        # It was there when the wait for it was given up.
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return made[0]

    with pytest.raises(TimeoutError):
        await patiently(connect_too_late())

    await eventually_true(lambda: made[0].closed)

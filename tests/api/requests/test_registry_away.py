"""A Postgres that is away, hangs, is slow, or lacks tables: a 503 or patience, then all is well.

A request gets its 503 within two seconds. These tests do not measure that; without the limit, they
would wait for ever.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator

import httpx
import pytest
import structlog
from fastapi import FastAPI
from sqlalchemy import text

from core.settings import RegistrySettings
from registry.database.engine import Registry
from tests.support.api import Api, assert_error
from tests.support.harness import eventually
from tests.support.servers import connect
from tests.support.tcp_proxy import TcpProxy

log = logging.getLogger(__name__)
"""Measured times: `pytest -o log_cli=true --log-cli-level=INFO` shows them."""

AWAY = (503, "The registry is not available at the moment. Please try again")
NOT_MIGRATED = (
    503,
    (
        "The registry's tables are missing or older than this server. "
        "Its operator has to run `control-plane migrate`"
    ),
)
LIMIT_SECONDS = 60


def assert_away(answer: httpx.Response) -> None:
    assert_error(answer, *AWAY)
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "damage",
    ["ALTER TABLE projects RENAME TO away", "ALTER TABLE projects DROP COLUMN created_at"],
)
async def test_tables_that_are_missing_or_too_old_are_503_that_says_what_to_do(
    api: Api, damage: str
) -> None:
    async with api.registry.engine.begin() as connection:
        await connection.execute(text(damage))
    with structlog.testing.capture_logs() as logs:
        answer = await api.get("/projects")
    assert_error(answer, *NOT_MIGRATED)
    assert answer.headers["retry-after"] == "1"
    # Which table it was is for the operator's eyes.
    (entry,) = [entry for entry in logs if entry["event"] == "registry_not_migrated"]
    assert entry["log_level"] == "error"
    assert "projects" in str(entry["exc_info"])


async def test_a_lost_connection_is_503_once_and_then_all_is_well(
    api: Api, registry_settings: RegistrySettings
) -> None:
    await api.ok("GET", "/projects")
    await asyncio.to_thread(_end_connections, registry_settings)
    answer = await api.get("/projects")
    assert_away(answer)
    await api.ok("GET", "/projects")


def _end_connections(settings: RegistrySettings) -> None:
    with connect(settings, database="postgres") as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [settings.postgres_db],
        )


@pytest.fixture
async def registry_away(registry_settings: RegistrySettings) -> AsyncIterator[Registry]:
    nowhere = registry_settings.model_copy(
        update={"postgres_host": "127.0.0.1", "postgres_port": 1, "postgres_pool_size": 2}
    )
    registry = Registry(nowhere)
    yield registry
    await registry.close()


async def test_a_registry_that_does_not_answer_is_503(
    app: FastAPI, api: Api, registry_away: Registry
) -> None:
    app.state.context = dataclasses.replace(app.state.context, registry=registry_away)
    for answer in await get_some(api):
        assert_away(answer)
    assert_error(await api.get("/projects", headers={}), 403, "Not authenticated")
    assert await api.ok("GET", "/") == {"status": "healthy"}


async def test_a_pool_that_is_used_up_is_503(
    app: FastAPI, api: Api, registry_settings: RegistrySettings
) -> None:
    small = Registry(
        registry_settings.model_copy(update={"postgres_pool_size": 1}), turn_seconds=0.2
    )
    app.state.context = dataclasses.replace(app.state.context, registry=small)
    async with small.transaction() as session:
        await session.execute(text("SELECT 1"))
        assert_away(await api.get("/projects"))
    await api.ok("GET", "/projects")
    await small.close()


@pytest.fixture
async def proxy(registry_settings: RegistrySettings) -> AsyncIterator[TcpProxy]:
    """A way to Postgres that can be blocked."""
    socket = f"{registry_settings.postgres_host}/.s.PGSQL.{registry_settings.postgres_port}"
    proxy = TcpProxy(lambda: asyncio.open_unix_connection(socket))
    async with proxy.serving():
        yield proxy


@pytest.fixture
async def behind_proxy(
    app: FastAPI, api: Api, registry_settings: RegistrySettings, proxy: TcpProxy
) -> AsyncIterator[Api]:
    """The API with two connections at most, through the proxy."""
    registry = Registry(
        registry_settings.model_copy(
            update={
                "postgres_host": "127.0.0.1",
                "postgres_port": proxy.port,
                "postgres_pool_size": 2,
            }
        )
    )
    app.state.context = dataclasses.replace(app.state.context, registry=registry)
    yield api
    await registry.close()


async def get_some(api: Api) -> list[httpx.Response]:
    """More requests than there are connections."""
    begun = time.monotonic()
    async with asyncio.timeout(LIMIT_SECONDS):
        answers = await asyncio.gather(*(api.get("/projects") for _ in range(5)))
    log.info("%s after %.2f s", {a.status_code for a in answers}, time.monotonic() - begun)
    return answers


async def until_served(api: Api) -> None:
    await eventually(lambda: api.get("/projects"), lambda answer: answer.status_code == 200)


async def test_a_registry_that_accepts_connections_and_never_answers_is_503(
    behind_proxy: Api, proxy: TcpProxy
) -> None:
    proxy.block()
    for answer in await get_some(behind_proxy):
        assert_away(answer)
    proxy.unblock()
    await until_served(behind_proxy)


async def test_a_registry_that_falls_silent_on_open_connections_is_503(
    behind_proxy: Api, proxy: TcpProxy
) -> None:
    for answer in await get_some(behind_proxy):
        assert answer.status_code == 200
    proxy.block()
    for answer in await get_some(behind_proxy):
        assert_away(answer)
    with structlog.testing.capture_logs() as logs:
        assert_away(await behind_proxy.get("/projects"))
    assert not [entry for entry in logs if entry["event"] == "postgres_silent"], "it is known"
    proxy.unblock()
    await until_served(behind_proxy)
    for answer in await get_some(behind_proxy):
        assert answer.status_code == 200


async def test_a_registry_that_is_slow_is_waited_for(
    api: Api, registry_settings: RegistrySettings
) -> None:
    """Longer than a silent one: it answers others."""
    # What holds the lock does so for longer than ours do.
    other = Registry(registry_settings, stalled_seconds=60)
    waits_long = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND now() - query_start > interval '2.5 seconds'"
    )

    async def waiting_long() -> int:
        async with other.autocommit() as session:
            count: int = (await session.execute(waits_long)).scalar_one()
            return count

    async with other.transaction() as session:
        await session.execute(text("LOCK TABLE projects"))
        request = asyncio.create_task(api.get("/projects"))
        await eventually(waiting_long, lambda count: count == 1)
    assert (await request).status_code == 200
    await other.close()


async def test_a_healthy_registry_is_not_taken_for_silent_by_who_has_no_time(
    app: FastAPI, api: Api, registry_settings: RegistrySettings
) -> None:
    """The loop is held up for longer than a connection may take: a burst of requests does that."""
    cold = Registry(registry_settings)
    app.state.context = dataclasses.replace(app.state.context, registry=cold)
    request = asyncio.create_task(api.get("/projects"))
    for _ in range(4):
        # A connection takes many turns of the loop.
        await asyncio.sleep(0)
        time.sleep(0.6)  # noqa: ASYNC251 - this is the point
    assert (await request).status_code == 200
    await cold.close()

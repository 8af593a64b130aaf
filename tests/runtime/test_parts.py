"""The parts of a process: in one order, each once, and closed again whatever happens."""

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import inspect, text
from sqlalchemy.exc import OperationalError, ProgrammingError
from temporalio.service import RPCError

import runtime.parts
from core.settings import (
    ApiKeySettings,
    BundleStoreSettings,
    RegistrySettings,
    SettingsError,
    TemporalSettings,
)
from registry.database.engine import Registry
from registry.queries.piece_stores import FolderPieces, PostgresPieces
from runtime.parts import (
    Parts,
    PartsSettings,
    make_parts,
    open_parts,
    wait_for_registry,
    with_another_pool,
)
from tests.support.harness import eventually
from tests.support.servers import connect

OPENED = ["upgrade", "connect", "ensure_search_attributes", "Registry"]
CLOSED = ["Registry.close", "drop_all_tables"]


@pytest.fixture
def settings(
    registry_settings: RegistrySettings, temporal_settings: TemporalSettings
) -> PartsSettings:
    return PartsSettings(
        registry=registry_settings,
        temporal=temporal_settings,
        keys=ApiKeySettings(control_plane_api_key=SecretStr("butterflyburger")),
        bundles=BundleStoreSettings(bundle_store_folder=None),
    )


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is opened and closed, in order. All of it really is."""
    seen: list[str] = []

    def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def note(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            return real(*arguments, **options)

        return note

    for name in (*OPENED, "drop_all_tables"):
        monkeypatch.setattr(runtime.parts, name, noted(name, getattr(runtime.parts, name)))
    monkeypatch.setattr(Registry, "close", noted("Registry.close", Registry.close))
    return seen


async def until_connections_are(count: int, settings: RegistrySettings) -> None:
    """Wait until Postgres has so many connections to a database: it ends one after its client."""

    def ask() -> int:
        with connect(settings, database="postgres") as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = %s", [settings.postgres_db]
            ).fetchone()
        assert row is not None
        found: int = row[0]
        return found

    await eventually(lambda: asyncio.to_thread(ask), lambda seen: seen == count)


async def tables(registry: Registry) -> list[str]:
    async with registry.engine.connect() as connection:
        return await connection.run_sync(lambda each: inspect(each).get_table_names())


async def ask(registry: Registry, question: str = "SELECT 1") -> None:
    async with registry.autocommit() as session:
        await session.execute(text(question))


async def test_each_part_is_opened_once_in_order_and_closed_in_the_opposite_one(
    settings: PartsSettings, steps: list[str]
) -> None:
    async with open_parts(settings, create_tables=True, delete_tables=True) as parts:
        assert steps == OPENED
        assert "invocations" in await tables(parts.registry)
        await parts.temporal.count_workflows()
        await until_connections_are(1, settings.registry)
        assert isinstance(parts.pieces, PostgresPieces)
    assert steps == [*OPENED, *CLOSED]
    await until_connections_are(0, settings.registry)


async def test_tables_are_left_alone_unless_it_is_asked_for(
    settings: PartsSettings, steps: list[str]
) -> None:
    async with open_parts(settings):
        pass
    assert steps == [*OPENED[1:], CLOSED[0]]


async def test_a_lazy_process_starts_without_temporal(
    settings: PartsSettings, steps: list[str]
) -> None:
    nowhere = TemporalSettings(temporal_address="127.0.0.1:1")
    without = dataclasses.replace(settings, temporal=nowhere)
    async with open_parts(without, lazy_temporal=True) as parts:
        await ask(parts.registry)
    assert steps == ["connect", "Registry", "Registry.close"]


async def test_without_temporal_the_tables_are_still_deleted(
    settings: PartsSettings, steps: list[str]
) -> None:
    nowhere = TemporalSettings(temporal_address="127.0.0.1:1")
    without = dataclasses.replace(settings, temporal=nowhere)
    with pytest.raises(ConnectionError, match=r"Temporal does not answer at 127\.0\.0\.1:1"):
        async with open_parts(without, create_tables=True, delete_tables=True):
            raise AssertionError("there is nothing to work with")
    assert steps == ["upgrade", "connect", "drop_all_tables"]


async def test_a_namespace_that_does_not_exist_opens_nothing_more(
    settings: PartsSettings, steps: list[str]
) -> None:
    elsewhere = settings.temporal.model_copy(update={"temporal_namespace": "nowhere"})
    with pytest.raises(RPCError):
        async with open_parts(dataclasses.replace(settings, temporal=elsewhere)):
            raise AssertionError("there is nothing to work with")
    assert steps == ["connect", "ensure_search_attributes"]


async def test_without_postgres_there_are_no_tables_to_delete(
    settings: PartsSettings, steps: list[str]
) -> None:
    nowhere = settings.registry.model_copy(
        update={"postgres_host": "127.0.0.1", "postgres_port": 1, "postgres_wait_seconds": 0}
    )
    with pytest.raises(OperationalError):
        async with open_parts(
            dataclasses.replace(settings, registry=nowhere),
            create_tables=True,
            delete_tables=True,
        ):
            raise AssertionError("there is nothing to work with")
    assert steps == ["upgrade"]


async def test_a_failure_after_the_connections_closes_them(
    settings: PartsSettings, steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(registry: Registry, *_: Any) -> None:
        raise PermissionError(f"no pieces with {registry.pool_size} connections")

    monkeypatch.setattr(runtime.parts, "piece_store", fail)
    with pytest.raises(PermissionError):
        async with open_parts(settings, delete_tables=True):
            raise AssertionError("there is nothing to work with")
    assert steps == [*OPENED[1:], *CLOSED]


async def test_a_failure_of_the_process_closes_all(
    settings: PartsSettings, steps: list[str]
) -> None:
    with pytest.raises(ProgrammingError):
        async with open_parts(settings, delete_tables=True) as parts:
            await ask(parts.registry, "SELECT * FROM nothing")
    assert steps == [*OPENED[1:], *CLOSED]
    await until_connections_are(0, settings.registry)


async def test_another_pool_is_all_that_is_opened_for_it(
    settings: PartsSettings, steps: list[str], tmp_path: Path
) -> None:
    settings = dataclasses.replace(
        settings, bundles=BundleStoreSettings(bundle_store_folder=tmp_path)
    )
    async with open_parts(settings) as parts:
        async with with_another_pool(parts, settings) as others:
            await asyncio.gather(ask(parts.registry), ask(others.registry))
            await until_connections_are(2, settings.registry)
            assert others.registry is not parts.registry
            assert isinstance(others.pieces, FolderPieces)
            same = [field.name for field in dataclasses.fields(Parts)]
            for name in set(same) - {"registry", "pieces"}:
                assert getattr(others, name) is getattr(parts, name)
        await until_connections_are(1, settings.registry)
        await ask(parts.registry)
    assert steps == [*OPENED[1:], "Registry", "Registry.close", "Registry.close"]


async def test_what_is_made_on_connections_of_others_leaves_them_open(
    settings: PartsSettings, steps: list[str], registry: Registry
) -> None:
    async with open_parts(settings) as parts:
        made = make_parts(
            registry,
            parts.temporal,
            temporal_settings=settings.temporal,
            keys=settings.keys,
            bundles=settings.bundles,
        )
        assert (made.registry, made.temporal) == (registry, parts.temporal)
    assert steps == [*OPENED[1:], "Registry.close"]


def test_what_is_missing_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD"):
        monkeypatch.setenv(name, "x")
    monkeypatch.delenv("CONTROL_PLANE_API_KEY", raising=False)
    with pytest.raises(SettingsError, match="CONTROL_PLANE_API_KEY not found"):
        PartsSettings.from_environment()


async def test_waiting_for_postgres_ends_when_it_answers_or_the_process_is_told_to_stop(
    registry: Registry, registry_settings: RegistrySettings
) -> None:
    stop = asyncio.Event()
    await wait_for_registry(registry, stop=stop)

    nowhere = Registry(registry_settings.model_copy(update={"postgres_port": 1}))
    waiting = asyncio.create_task(wait_for_registry(nowhere, stop=stop))
    assert (await asyncio.wait([waiting], timeout=0.5))[1] == {waiting}
    stop.set()
    async with asyncio.timeout(10):
        await waiting
    await nowhere.close()

"""What a process of the control plane consists of: opened once, in one place, and closed.

The API, the Temporal worker and the standalone stack open their parts here. The tests bring their
own connections, and have the rest made from them here.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final, Self

import structlog
from sqlalchemy.exc import OperationalError
from temporalio.client import Client

from core.settings import (
    ApiKeySettings,
    BundleStoreSettings,
    RegistrySettings,
    TemporalSettings,
    load,
)
from core.temporal.client import connect, ensure_search_attributes
from core.temporal.dispatch import Dispatcher
from registry.database.deployment import get_deployment
from registry.database.engine import Registry
from registry.database.migrate import drop_all_tables, upgrade
from registry.queries.piece_stores import PieceStore, piece_store
from registry.queries.token_secret import WorkerTokens

logger = structlog.get_logger(__name__)

_FIRST_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 5.0
"""Between two tries to reach Postgres."""


@dataclass(frozen=True, kw_only=True)
class PartsSettings:
    """What every process reads from the environment, or is given by the one that starts it."""

    registry: RegistrySettings
    temporal: TemporalSettings
    keys: ApiKeySettings
    bundles: BundleStoreSettings

    @classmethod
    def from_environment(cls) -> Self:
        """Read them.

        Raises:
            SettingsError: a variable is missing or wrong.
        """
        return cls(
            registry=load(RegistrySettings),
            temporal=load(TemporalSettings),
            keys=load(ApiKeySettings),
            bundles=load(BundleStoreSettings),
        )


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What API and Temporal worker are put together from."""

    registry: Registry
    temporal: Client
    dispatcher: Dispatcher
    tokens: WorkerTokens
    pieces: PieceStore
    temporal_settings: TemporalSettings
    keys: ApiKeySettings


def make_parts(
    registry: Registry,
    temporal: Client,
    *,
    temporal_settings: TemporalSettings,
    keys: ApiKeySettings,
    bundles: BundleStoreSettings,
    look_again_seconds: float = 30,
) -> Parts:
    """Make the parts that need no opening, on connections that are there and stay the caller's.

    Args:
        registry: Postgres.
        temporal: the connection to Temporal.
        temporal_settings: queues, heartbeats, and where Temporal's web UI is.
        keys: what users and workers prove who they are with.
        bundles: where the content of code bundles is kept.
        look_again_seconds: see `Dispatcher`.
    """
    return Parts(
        registry=registry,
        temporal=temporal,
        dispatcher=Dispatcher(
            temporal,
            task_queue=temporal_settings.temporal_task_queue,
            heartbeat_seconds=temporal_settings.temporal_heartbeat_seconds,
            look_again_seconds=look_again_seconds,
        ),
        tokens=WorkerTokens(registry, keys),
        pieces=piece_store(registry, bundles),
        temporal_settings=temporal_settings,
        keys=keys,
    )


@asynccontextmanager
async def open_parts(
    settings: PartsSettings,
    *,
    lazy_temporal: bool = False,
    create_tables: bool = False,
    delete_tables: bool = False,
) -> AsyncIterator[Parts]:
    """Open the parts of a process for the block, and close them after it in the opposite order.

    Args:
        settings: where Postgres and Temporal are, and the secrets.
        lazy_temporal: connect to Temporal at the first call only: for a process that must start
            without it. Search attributes are then left to the others.
        create_tables: bring the registry's schema up to date first.
        delete_tables: drop the registry's tables at the end, whatever the end is.

    Raises:
        OperationalError: Postgres does not answer in time (only with `create_tables` or
            `delete_tables`).
        ConnectionError: Temporal does not answer (never if it is lazy).
        RPCError: Temporal refuses, for example because there is no such namespace.
    """
    async with AsyncExitStack() as stack:
        if create_tables:
            wait_seconds = settings.registry.postgres_wait_seconds
            await asyncio.to_thread(upgrade, settings.registry, wait_seconds=wait_seconds)
        if delete_tables:
            stack.push_async_callback(asyncio.to_thread, drop_all_tables, settings.registry)
        client = await connect(settings.temporal, lazy=lazy_temporal)
        if not lazy_temporal:
            await ensure_search_attributes(client)
        registry = Registry(settings.registry)
        stack.push_async_callback(registry.close)
        yield make_parts(
            registry,
            client,
            temporal_settings=settings.temporal,
            keys=settings.keys,
            bundles=settings.bundles,
        )


@asynccontextmanager
async def with_another_pool(parts: Parts, settings: PartsSettings) -> AsyncIterator[Parts]:
    """Give the same parts with connections to Postgres of their own, for the block."""
    registry = Registry(settings.registry)
    try:
        yield replace(parts, registry=registry, pieces=piece_store(registry, settings.bundles))
    finally:
        await registry.close()


async def wait_for_registry(registry: Registry, *, stop: asyncio.Event) -> None:
    """Return as soon as Postgres answers, however long that takes, or `stop` is set."""
    pause = _FIRST_PAUSE_SECONDS
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
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

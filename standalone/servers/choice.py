"""Which Postgres and which Temporal a stack uses: embedded ones, or those that variables name."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import structlog

from core.settings import RegistrySettings, TemporalSettings, load
from core.temporal.client import SEARCH_ATTRIBUTES
from standalone.errors import PortIsTakenError
from standalone.servers.ports import port_is_free
from standalone.servers.postgres import EmbeddedPostgres
from standalone.servers.temporal import TemporalDevServer

logger = structlog.get_logger(__name__)

_DATABASE: Final = "control_plane"
_TEMPORAL_PORT: Final = 7233
_TEMPORAL_UI_PORT: Final = 8233


@asynccontextmanager
async def chosen_postgres(
    folder: Path, *, durable: bool, always_embedded: bool
) -> AsyncIterator[tuple[RegistrySettings, EmbeddedPostgres | None]]:
    """Give the Postgres that POSTGRES_HOST names, or run one of our own during the block.

    Args:
        folder: where our own keeps its data.
        durable: see `EmbeddedPostgres`.
        always_embedded: disregard POSTGRES_HOST.

    Raises:
        StandaloneError: our own cannot be started.
        SettingsError: a variable is missing or wrong.
    """
    if os.environ.get("POSTGRES_HOST") and not always_embedded:
        yield load(RegistrySettings), None
        return
    binaries = os.environ.get("CONTROL_PLANE_POSTGRES_BINARIES")
    async with EmbeddedPostgres(
        folder, binaries=Path(binaries) if binaries else None, durable=durable
    ) as postgres:
        await asyncio.to_thread(postgres.create_database, _DATABASE)
        yield postgres.registry_settings(_DATABASE), postgres


@asynccontextmanager
async def chosen_temporal(
    folder: Path, *, durable: bool, port: int | None, ui_port: int | None, always_embedded: bool
) -> AsyncIterator[tuple[TemporalSettings, TemporalDevServer | None]]:
    """Give the Temporal that TEMPORAL_ADDRESS names, or run one of our own during the block.

    Args:
        folder: where our own keeps its data.
        durable: False keeps them in memory.
        port: of our own; None for 7233 if it is free, else any free one.
        ui_port: of its web UI; None for 8233 if it is free, else any free one.
        always_embedded: disregard TEMPORAL_ADDRESS.

    Raises:
        StandaloneError: our own cannot be started.
        SettingsError: a variable is wrong.
    """
    settings = load(TemporalSettings)
    if os.environ.get("TEMPORAL_ADDRESS") and not always_embedded:
        yield settings, None
        return
    binary = os.environ.get("CONTROL_PLANE_TEMPORAL_BINARY")

    def server(usual: Callable[[int], int | None]) -> TemporalDevServer:
        return TemporalDevServer(
            folder,
            persistent=durable,
            binary=Path(binary) if binary else None,
            port=port or usual(_TEMPORAL_PORT),
            ui_port=ui_port or usual(_TEMPORAL_UI_PORT),
            namespace=settings.temporal_namespace,
            search_attributes=SEARCH_ATTRIBUTES,
        )

    async with AsyncExitStack() as stack:
        temporal = server(_usual_or_any)
        try:
            await stack.enter_async_context(temporal)
        except PortIsTakenError as error:
            if error.port in {port, ui_port}:
                raise
            # Another stack that starts at this moment was faster at the usual port.
            temporal = server(lambda _: None)
            await stack.enter_async_context(temporal)
        reached = {
            "temporal_address": temporal.address,
            "temporal_ui_url": settings.temporal_ui_url or temporal.ui_url,
        }
        yield settings.model_copy(update=reached), temporal


def _usual_or_any(port: int) -> int | None:
    if port_is_free(port):
        return port
    logger.warning("usual_port_is_taken", port=port, instead="any free one")
    return None

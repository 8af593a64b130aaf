"""Which Postgres and which Temporal a stack uses: embedded ones, or those that variables name."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from api.http.server import CannotListenError, bind
from core.settings import RegistrySettings, TemporalSettings, load
from core.temporal.client import SEARCH_ATTRIBUTES, EmbeddedTemporalSettings
from standalone.errors import PortIsTakenError, StandaloneError
from standalone.options import StackOptions
from standalone.servers.ports import LOOPBACK, port_is_free
from standalone.servers.postgres import EmbeddedPostgres
from standalone.temporal.closed_server import ClosedTemporal
from standalone.temporal.dev_server import ServerOptions, TemporalDevServer
from standalone.temporal.open_server import OpenTemporal
from standalone.temporal.ui_login import UiLogin, made_up_url
from standalone.temporal.ui_server import serving_ui

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


@dataclass(frozen=True, kw_only=True)
class ChosenTemporal:
    """A Temporal that a stack uses, and its web UI."""

    settings: TemporalSettings
    server: TemporalDevServer | None = None
    """Our own; None if a variable names another."""
    log_in: Callable[[str], str] | None = None
    """Gives a link that opens a page of the UI, named by its path; None if that needs no login."""
    ui: asyncio.Task[None] | None = None
    """What serves the UI, if that is done here."""

    def ui_link(self) -> str | None:
        """Give an address that opens the UI, the first time without a login; None without a UI."""
        return self.settings.temporal_ui_url if self.log_in is None else self.log_in("/")


@asynccontextmanager
async def chosen_temporal(folder: Path, options: StackOptions) -> AsyncIterator[ChosenTemporal]:
    """Give the Temporal that TEMPORAL_ADDRESS names, or run one of our own during the block.

    Args:
        folder: where our own keeps its data.
        options: of the stack.

    Raises:
        StandaloneError: our own cannot be started.
        SettingsError: a variable is wrong.
    """
    settings = load(TemporalSettings)
    if os.environ.get("TEMPORAL_ADDRESS") and not options.is_self_contained:
        yield ChosenTemporal(settings=settings)
        return
    binary = os.environ.get("CONTROL_PLANE_TEMPORAL_BINARY")
    common: ServerOptions = {
        "persistent": options.durable,
        "binary": Path(binary) if binary else None,
        "namespace": settings.temporal_namespace,
        "search_attributes": SEARCH_ATTRIBUTES,
    }
    way = _open_temporal if options.temporal_open else _closed_temporal
    async with way(folder, options, settings, common) as temporal:
        yield temporal


@asynccontextmanager
async def _closed_temporal(
    folder: Path, options: StackOptions, settings: TemporalSettings, common: ServerOptions
) -> AsyncIterator[ChosenTemporal]:
    with closing(_bind_ui(options.temporal_ui_port)) as listener:
        port = listener.getsockname()[1]
        login = UiLogin(settings.temporal_ui_url or made_up_url(port))
        async with (
            ClosedTemporal(folder, **common) as server,
            serving_ui(listener, login, server.ui_client()) as ui,
        ):
            yield ChosenTemporal(
                settings=_with_others(settings, server.settings, ui_url=login.url),
                server=server,
                log_in=login.one_time_link,
                ui=ui,
            )


@asynccontextmanager
async def _open_temporal(
    folder: Path, options: StackOptions, settings: TemporalSettings, common: ServerOptions
) -> AsyncIterator[ChosenTemporal]:
    def server(usual: Callable[[int], int | None]) -> OpenTemporal:
        return OpenTemporal(
            folder,
            port=options.temporal_port or usual(_TEMPORAL_PORT),
            ui_port=options.temporal_ui_port or usual(_TEMPORAL_UI_PORT),
            **common,
        )

    logger.warning("temporal_is_open", who_commands_it="every account and every function here")
    async with AsyncExitStack() as stack:
        temporal = server(_usual_or_any)
        try:
            await stack.enter_async_context(temporal)
        except PortIsTakenError as error:
            if error.port in {options.temporal_port, options.temporal_ui_port}:
                raise
            # Another stack that starts at this moment was faster at the usual port.
            temporal = server(lambda _: None)
            await stack.enter_async_context(temporal)
        ui_url = settings.temporal_ui_url or temporal.ui_url
        yield ChosenTemporal(
            settings=_with_others(settings, temporal.settings, ui_url=ui_url), server=temporal
        )


def _with_others(
    given: TemporalSettings, server: EmbeddedTemporalSettings, *, ui_url: str | None
) -> EmbeddedTemporalSettings:
    """Give the way to our own server, with all else as the environment has it."""
    return server.model_copy(
        update={
            "temporal_task_queue": given.temporal_task_queue,
            "temporal_heartbeat_seconds": given.temporal_heartbeat_seconds,
            "temporal_ui_url": ui_url,
        }
    )


def _bind_ui(port: int | None) -> socket.socket:
    try:
        return bind(LOOPBACK, _TEMPORAL_UI_PORT if port is None else port)
    except CannotListenError as error:
        if error.errno != errno.EADDRINUSE:
            raise StandaloneError(f"{error} for Temporal's web UI") from error
        if port is not None:
            raise PortIsTakenError(port, "Temporal's web UI") from error
    _say_taken(_TEMPORAL_UI_PORT)
    return bind(LOOPBACK, 0)


def _usual_or_any(port: int) -> int | None:
    if port_is_free(port):
        return port
    _say_taken(port)
    return None


def _say_taken(port: int) -> None:
    logger.warning("usual_port_is_taken", port=port, instead="any free one")

"""The API as a process: serves until told to stop."""

import structlog

from api.app import create_app
from api.http.server import bind, serve
from core.settings import (
    ApiKeySettings,
    ApiSettings,
    BundleStoreSettings,
    RegistrySettings,
    TemporalSettings,
    load,
)
from core.temporal.client import connect
from core.temporal.dispatch import Dispatcher
from core.tokens import ExecutionTokens
from registry.changes import Changes
from registry.database.engine import Registry
from registry.queries.piece_stores import piece_store
from runtime.managed_tables import managed_tables
from runtime.shutdown import stop_on_signals

logger = structlog.get_logger(__name__)


async def run_api(
    *, provisioner: str, host: str, port: int, create_tables: bool, delete_tables: bool
) -> None:
    """Run the API until SIGTERM or SIGINT.

    Args:
        provisioner: the exact name of the kind that runs the functions of versions whose definition
            names no pool.
        host: address to listen at.
        port: port to listen at; 0 for any free one.
        create_tables: bring the registry's schema up to date first.
        delete_tables: drop the registry's tables at the end, whatever the end is.

    Raises:
        SettingsError: a setting is missing or wrong.
        OperationalError: Postgres did not answer in time (only with `create_tables`).
        CannotListenError: the port is taken.
    """
    registry_settings = load(RegistrySettings)
    temporal_settings = load(TemporalSettings)
    key_settings = load(ApiKeySettings)
    api_settings = load(ApiSettings)
    bundle_settings = load(BundleStoreSettings)
    stop = stop_on_signals()
    with bind(host, port) as listener:
        async with managed_tables(registry_settings, create=create_tables, delete=delete_tables):
            registry = Registry(registry_settings)
            try:
                # Lazy: requests are served while Temporal is away. What is accepted then stays
                # queued until the sweep starts it.
                client = await connect(temporal_settings, lazy=True)
                changes = Changes(registry)
                app = create_app(
                    registry=registry,
                    changes=changes,
                    dispatcher=Dispatcher(
                        client,
                        task_queue=temporal_settings.temporal_task_queue,
                        heartbeat_seconds=temporal_settings.temporal_heartbeat_seconds,
                    ),
                    default_pool=provisioner,
                    api_key=key_settings.control_plane_api_key.get_secret_value(),
                    tokens=ExecutionTokens(key_settings.token_secret()),
                    api_settings=api_settings,
                    temporal_ui_url=temporal_settings.temporal_ui_url,
                    temporal_namespace=temporal_settings.temporal_namespace,
                    pieces=piece_store(registry, bundle_settings),
                )
                logger.info("api_listening", host=host, port=listener.getsockname()[1])
                async with changes:
                    await serve(app, listener=listener, changes=changes, stop=stop)
                logger.info("api_stopped")
            finally:
                await registry.close()

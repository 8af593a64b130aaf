"""The Temporal worker as a process: connects, runs until told to stop."""

import asyncio

import structlog

from core.settings import (
    ApiKeySettings,
    BundleStoreSettings,
    RegistrySettings,
    TemporalSettings,
    WorkerSettings,
    load,
)
from core.temporal.client import connect, ensure_search_attributes
from core.temporal.dispatch import Dispatcher
from core.tokens import ExecutionTokens
from provisioners.catalog import load_provisioner_class
from registry.database.deployment import wait_for_registry
from registry.database.engine import Registry
from registry.queries.piece_stores import piece_store
from runtime.managed_tables import managed_tables
from runtime.shutdown import stop_on_signals
from worker.build import temporal_worker

logger = structlog.get_logger(__name__)


async def run_worker(*, provisioner: str, create_tables: bool, delete_tables: bool) -> None:
    """Run a Temporal worker until SIGTERM or SIGINT.

    Args:
        provisioner: kind of the provisioner.
        create_tables: bring the registry's schema up to date first.
        delete_tables: drop the registry's tables at the end, whatever the end is.

    Raises:
        UnknownProvisionerError: there is no such kind.
        SettingsError: a setting is missing or wrong.
        OperationalError: Postgres does not answer (only with `create_tables` or `delete_tables`).
        ConnectionError: Temporal does not answer.
        RPCError: Temporal refuses, for example because there is no such namespace.
        ProvisionerError: the provisioner cannot be used here; the text says why.
    """
    registry_settings = load(RegistrySettings)
    temporal_settings = load(TemporalSettings)
    key_settings = load(ApiKeySettings)
    worker_settings = load(WorkerSettings)
    bundle_settings = load(BundleStoreSettings)
    backend = load_provisioner_class(provisioner).from_environment()
    stop = stop_on_signals()
    async with managed_tables(registry_settings, create=create_tables, delete=delete_tables):
        client = await connect(temporal_settings)
        await ensure_search_attributes(client)
        registry = Registry(registry_settings)
        try:
            await wait_for_registry(registry, stop=stop)
            if stop.is_set():
                return
            async with temporal_worker(
                client=client,
                registry=registry,
                provisioner=backend,
                dispatcher=Dispatcher(
                    client,
                    task_queue=temporal_settings.temporal_task_queue,
                    heartbeat_seconds=temporal_settings.temporal_heartbeat_seconds,
                ),
                tokens=ExecutionTokens(key_settings.token_secret()),
                settings=worker_settings,
                task_queue=temporal_settings.temporal_task_queue,
                pieces=piece_store(registry, bundle_settings),
            ):
                logger.info("temporal_worker_started", provisioner=backend.kind)
                await stop.wait()
                logger.info("temporal_worker_stopping")
        finally:
            await registry.close()


def main(*, provisioner: str, create_tables: bool, delete_tables: bool) -> None:
    """Run the process; see `run_worker`."""
    asyncio.run(
        run_worker(
            provisioner=provisioner, create_tables=create_tables, delete_tables=delete_tables
        )
    )

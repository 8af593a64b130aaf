"""The Temporal worker as a process: connects, runs until told to stop."""

import structlog

from core.secret_files import forget_secrets
from core.settings import TemporalWorkerSettings, load
from provisioners.catalog import load_provisioner_class
from runtime.parts import PartsSettings, open_parts, wait_for_registry
from runtime.shutdown import stop_on_signals
from worker.build import temporal_worker

logger = structlog.get_logger(__name__)


async def run_temporal_worker(
    *, provisioner: str, create_tables: bool, delete_tables: bool
) -> None:
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
    settings = PartsSettings.from_environment()
    temporal_worker_settings = load(TemporalWorkerSettings)
    backend = load_provisioner_class(provisioner).from_environment()
    forget_secrets()
    stop = stop_on_signals()
    async with open_parts(
        settings, create_tables=create_tables, delete_tables=delete_tables
    ) as parts:
        await wait_for_registry(parts.registry, stop=stop)
        if stop.is_set():
            return
        async with temporal_worker(parts, provisioner=backend, settings=temporal_worker_settings):
            logger.info("temporal_worker_started", provisioner=backend.kind)
            await stop.wait()
            logger.info("temporal_worker_stopping")

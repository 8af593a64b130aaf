"""The API as a process: serves until told to stop."""

import ssl

import structlog

from api.access.exposure import check_keys
from api.app import create_app
from api.http.server import bind, serve
from core.secret_files import forget_secrets
from core.settings import ApiSettings, load
from registry.changes import Changes
from runtime.parts import PartsSettings, open_parts
from runtime.shutdown import stop_on_signals

logger = structlog.get_logger(__name__)


async def run_api(
    *,
    provisioner: str,
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    create_tables: bool,
    delete_tables: bool,
) -> None:
    """Run the API until SIGTERM or SIGINT.

    Args:
        provisioner: the exact name of the kind that runs the functions of versions whose definition
            names no pool.
        host: address to listen at.
        port: port to listen at; 0 for any free one.
        tls: from `api.http.tls.load_certificate`; None: plain HTTP.
        create_tables: bring the registry's schema up to date first.
        delete_tables: drop the registry's tables at the end, whatever the end is.

    Raises:
        SettingsError: a setting is missing or wrong.
        OperationalError: Postgres did not answer in time (only with `create_tables`).
        CannotListenError: the port is taken.
        InsecureKeyError: a key can be guessed, and others than this machine reach the API.
    """
    settings = PartsSettings.from_environment()
    api_settings = load(ApiSettings)
    forget_secrets()
    stop = stop_on_signals()
    with bind(host, port) as listener:
        check_keys(settings.keys, listener)
        async with open_parts(
            settings,
            # Requests are served while Temporal is away. What is accepted then stays queued until
            # the sweep starts it.
            lazy_temporal=True,
            create_tables=create_tables,
            delete_tables=delete_tables,
        ) as parts:
            changes = Changes(parts.registry)
            app = create_app(
                parts, changes=changes, default_pool=provisioner, api_settings=api_settings
            )
            logger.info("api_listening", host=host, port=listener.getsockname()[1])
            async with changes:
                await serve(
                    app,
                    listener=listener,
                    changes=changes,
                    stop=stop,
                    tls=tls,
                    max_connections=api_settings.control_plane_max_connections,
                )
            logger.info("api_stopped")

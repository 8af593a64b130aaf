"""The whole control plane in one process: Postgres and Temporal as children, the rest in asyncio.

Any part can be replaced through settings: with POSTGRES_HOST set no Postgres is started, with
TEMPORAL_ADDRESS set no Temporal.
"""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import SecretStr

from api.access.exposure import check_keys
from api.app import create_app
from api.http.server import bind, serve
from api.http.tls import load_certificate
from core.secret_files import FILE_SUFFIX, forget_secrets
from core.settings import (
    ApiKeySettings,
    ApiSettings,
    BundleStoreSettings,
    TemporalSettings,
    TemporalWorkerSettings,
    load,
)
from provisioners.base import Provisioner
from provisioners.catalog import load_provisioner_class
from registry.changes import Changes
from registry.database.migrate import upgrade
from runtime.logging import logging_to
from runtime.parts import PartsSettings, open_parts, with_another_pool
from standalone.choice import chosen_postgres, chosen_temporal
from standalone.data_folder import make_data_folder, read_or_make_api_key
from standalone.errors import PortIsTakenError, StandaloneError
from standalone.options import StackOptions
from standalone.running_server import announced
from standalone.secure import address_for_workers
from standalone.servers.base import EmbeddedServer
from worker.build import temporal_worker

logger = structlog.get_logger(__name__)

_LOG_FILE = "control-plane.log"


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Where a running stack is reached."""

    api_url: str
    api_key: SecretStr
    api_key_file: Path | None
    """None if the key came from the environment."""
    temporal: TemporalSettings
    temporal_ui_link: str | None
    """An address that opens Temporal's web UI, the first time without a login; None without one."""
    data_folder: Path
    log_file: Path | None
    """None if the log goes where that of the process goes."""
    embedded: tuple[EmbeddedServer, ...]
    serving: tuple[asyncio.Task[None], ...]
    """What answers HTTP requests."""

    async def part_died(self) -> str:
        """Wait until a part ends by itself; returns what to tell the operator."""
        servers = {asyncio.create_task(server.exited()): server for server in self.embedded}
        try:
            done, _ = await asyncio.wait(
                [*servers, *self.serving], return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in servers:
                task.cancel()
        for task, server in servers.items():
            if task in done:
                return f"{server.name} has ended unexpectedly. Its log is {server.log}"
        return "An HTTP server has ended unexpectedly"


@asynccontextmanager
async def running_stack(
    options: StackOptions, *, provisioner: Provisioner | None = None
) -> AsyncIterator[Stack]:
    """Run everything during the block.

    Args:
        options: ports and folders.
        provisioner: use this one instead of the kind named in the options.

    Raises:
        StandaloneError: a part cannot be started; the text says what to do.
        SettingsError: a variable in the environment is wrong.
        UnknownProvisionerError: there is no such kind.
        InsecureKeyError: a key can be guessed, and others than this machine reach the API.
        CertificateError: the certificate or its key cannot be used.
    """
    # What cannot work is said before anything is made or started.
    backend = provisioner or _make_provisioner(options)
    temporal_worker_settings, api_settings = load(TemporalWorkerSettings), load(ApiSettings)
    tls = None if options.certificate is None else load_certificate(*options.certificate)
    keys = _given_keys()
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(_bind(options))
        if keys is not None:
            check_keys(keys, listener)
        folder = make_data_folder(options.data_folder)
        log_file = _log_to(stack, folder / _LOG_FILE) if options.has_log_file else None
        port = listener.getsockname()[1]
        api_url = f"http://{_reachable(options.host)}:{port}"
        if tls is not None:
            api_url = address_for_workers(tls, api_url, temporal_worker_settings)

        registry_settings, postgres = await stack.enter_async_context(
            chosen_postgres(
                folder / "postgres",
                durable=options.durable,
                always_embedded=options.is_self_contained,
            )
        )
        temporal = await stack.enter_async_context(chosen_temporal(folder / "temporal", options))
        await asyncio.to_thread(upgrade, registry_settings, wait_seconds=10)
        api_key_file = None
        if keys is None:
            api_key, api_key_file = read_or_make_api_key(folder)
            keys = load(ApiKeySettings, control_plane_api_key=SecretStr(api_key))
            check_keys(keys, listener)
        settings = PartsSettings(
            registry=registry_settings,
            temporal=temporal.settings,
            keys=keys,
            bundles=(
                BundleStoreSettings(bundle_store_folder=None)
                if options.is_self_contained
                else load(BundleStoreSettings)
            ),
        )
        forget_secrets()
        parts = await stack.enter_async_context(open_parts(settings))
        # A pool each: workflows that wait for a lock must not keep requests waiting.
        parts_of_temporal_worker = await stack.enter_async_context(
            with_another_pool(parts, settings)
        )
        await stack.enter_async_context(
            temporal_worker(
                parts_of_temporal_worker,
                provisioner=backend,
                settings=temporal_worker_settings.model_copy(
                    update={"control_plane_api_url": api_url}
                ),
            )
        )
        changes = await stack.enter_async_context(Changes(parts.registry))
        app = create_app(
            parts,
            changes=changes,
            default_pool=backend.kind,
            api_settings=api_settings,
            log_in_to_ui=temporal.log_in,
        )
        stop = asyncio.Event()
        serving = asyncio.create_task(
            serve(
                app,
                listener=listener,
                changes=changes,
                stop=stop,
                tls=tls,
                max_connections=api_settings.control_plane_max_connections,
            )
        )
        if options.is_for_others:
            stack.enter_context(announced(folder, url=api_url))
        try:
            yield Stack(
                api_url=api_url,
                api_key=keys.control_plane_api_key,
                api_key_file=api_key_file,
                temporal=temporal.settings,
                temporal_ui_link=temporal.ui_link(),
                data_folder=folder,
                log_file=log_file,
                embedded=tuple(each for each in (postgres, temporal.server) if each is not None),
                serving=tuple(each for each in (serving, temporal.ui) if each is not None),
            )
        finally:
            stop.set()
            await serving


def _make_provisioner(options: StackOptions) -> Provisioner:
    """Make the provisioner from the environment; what it keeps is part of our data folder."""
    provisioner_class = load_provisioner_class(options.provisioner)
    return provisioner_class.from_environment(data_folder=options.data_folder.resolve())


def _bind(options: StackOptions) -> socket.socket:
    try:
        return bind(options.host, options.api_port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortIsTakenError(options.api_port, "the API") from error
        raise StandaloneError(
            f"The API cannot listen on {options.host}:{options.api_port}: {error.strerror}"
        ) from error


def _log_to(stack: AsyncExitStack, file: Path) -> Path:
    try:
        stack.enter_context(logging_to(file))
    except OSError as error:
        raise StandaloneError(f"The log {file} cannot be written: {error.strerror}") from error
    return file


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound


def _given_keys() -> ApiKeySettings | None:
    name = "CONTROL_PLANE_API_KEY"
    is_given = os.environ.get(name) or os.environ.get(name + FILE_SUFFIX)
    return load(ApiKeySettings) if is_given else None

"""The `up` and `demo` commands. Heavy imports are inside, so that `--help` is quick."""

import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click

from runtime.commands import (
    certificate_and_key,
    certificate_options,
    data_folder_option,
    ending_at_once,
    expected_errors,
    provisioner_option,
    quick_imports,
    temporal_open_option,
    workers_as_root_option,
)


def _run(program: Coroutine[Any, Any, int]) -> None:
    import asyncio  # noqa: PLC0415 - quick --help

    from api.access.exposure import InsecureKeyError  # noqa: PLC0415 - quick --help
    from api.http.tls import CertificateError  # noqa: PLC0415 - quick --help
    from provisioners.base import ProvisionerError  # noqa: PLC0415 - quick --help
    from runtime.process import prepare_process  # noqa: PLC0415 - quick --help
    from standalone.errors import StandaloneError  # noqa: PLC0415 - quick --help

    prepare_process()
    with (
        ending_at_once(),
        expected_errors(
            StandaloneError, ProvisionerError, CertificateError, usage=InsecureKeyError
        ),
    ):
        try:
            sys.exit(asyncio.run(program))
        except KeyboardInterrupt:
            sys.exit(130)


@click.command()
@data_folder_option
@click.option(
    "--host",
    default="127.0.0.1",
    envvar="CONTROL_PLANE_HOST",
    show_envvar=True,
    show_default=True,
    help="Interface of the API. Postgres and Temporal stay on loopback.",
)
@click.option(
    "--port",
    default=5000,
    type=click.IntRange(0, 65535),
    envvar="CONTROL_PLANE_PORT",
    show_envvar=True,
    show_default=True,
    help="Port of the API; 0 for any free one.",
)
@certificate_options
@temporal_open_option
@click.option(
    "--temporal-port",
    type=click.IntRange(1, 65535),
    help="Port of Temporal, with --temporal-open. Default: 7233 if it is free, else any free one.",
)
@click.option(
    "--temporal-ui-port",
    type=click.IntRange(1, 65535),
    help="Port of Temporal's web UI. Default: 8233 if it is free, else any free one.",
)
@provisioner_option(help_text="What makes the workers of executions.", default="process")
@workers_as_root_option
def up(
    *,
    data_folder: Path | None,
    host: str,
    port: int,
    certificate_file: Path | None,
    key_file: Path | None,
    temporal_open: bool,
    temporal_port: int | None,
    temporal_ui_port: int | None,
    provisioner: str,
) -> None:
    """Run everything on this machine: Postgres, Temporal with its web UI, API and Temporal worker.

    Nothing else needs to be installed. Data stays in the data folder. With POSTGRES_HOST or
    TEMPORAL_ADDRESS set, that server is used instead of an embedded one. Ends with Ctrl-C.
    """
    with quick_imports():
        from runtime.logging import configure_logging  # noqa: PLC0415 - quick --help
        from standalone.data_folder import default_data_folder  # noqa: PLC0415 - quick --help
        from standalone.options import StackOptions  # noqa: PLC0415 - quick --help
        from standalone.up import run_until_stopped  # noqa: PLC0415 - quick --help

    if temporal_port is not None and not temporal_open:
        raise click.UsageError("--temporal-port goes with --temporal-open: else there is no port")
    configure_logging()
    options = StackOptions(
        data_folder=data_folder or default_data_folder(),
        provisioner=provisioner,
        host=host,
        api_port=port,
        certificate=certificate_and_key(certificate_file, key_file),
        temporal_open=temporal_open,
        temporal_port=temporal_port,
        temporal_ui_port=temporal_ui_port,
        has_log_file=True,
    )
    _run(run_until_stopped(options))


@click.command()
@click.option(
    "--keep",
    is_flag=True,
    help="Leave the stack running at the end, to look around, until Ctrl-C.",
)
@temporal_open_option
@workers_as_root_option
def demo(*, keep: bool, temporal_open: bool) -> None:
    """Start a stack in a temporary folder, call the example's functions, show what happens."""
    with quick_imports():
        from runtime.logging import configure_logging  # noqa: PLC0415 - quick --help
        from standalone.demo import run_demo  # noqa: PLC0415 - quick --help

    configure_logging(level="ERROR")
    _run(run_demo(keep=keep, temporal_open=temporal_open))

"""The commands `control-plane api` and `control-plane openapi`."""

# ruff: noqa: PLC0415 - heavy imports wait until a command runs, so that `--help` stays quick

import json
from pathlib import Path
from typing import TextIO

import click

from runtime.commands import (
    certificate_and_key,
    certificate_options,
    ending_at_once,
    expected_errors,
    provisioner_option,
    quick_imports,
    table_options,
)


@click.command()
@provisioner_option(help_text="What makes the workers of functions whose definition names no pool.")
@table_options
@click.option(
    "--host",
    default="0.0.0.0",  # noqa: S104 - a server in a container listens at all its addresses
    show_default=True,
    envvar="CONTROL_PLANE_HOST",
    show_envvar=True,
    help="Address to listen at.",
)
@click.option(
    "--port",
    default=5000,
    show_default=True,
    type=click.IntRange(0, 65535),
    envvar="CONTROL_PLANE_PORT",
    show_envvar=True,
    help="Port to listen at.",
)
@certificate_options
def api(
    *,
    provisioner: str,
    create_tables: bool,
    delete_tables: bool,
    host: str,
    port: int,
    certificate_file: Path | None,
    key_file: Path | None,
) -> None:
    """Serve the HTTP API.

    Reads CONTROL_PLANE_API_KEY, POSTGRES_* and TEMPORAL_*. Temporal may be away at the start and
    later: invocations that are accepted meanwhile run when it is back.
    """
    with quick_imports():
        import asyncio

        from api.access.exposure import InsecureKeyError
        from api.http.server import CannotListenError
        from api.http.tls import CertificateError, load_certificate
        from api.run import run_api
        from core.provisioner_kinds import find_kind
        from runtime.logging import configure_logging
        from runtime.process import prepare_process

    configure_logging()
    prepare_process()
    with (
        ending_at_once(),
        expected_errors(CannotListenError, CertificateError, usage=InsecureKeyError),
    ):
        kind, _ = find_kind(provisioner)
        certificate = certificate_and_key(certificate_file, key_file)
        asyncio.run(
            run_api(
                provisioner=kind,
                host=host,
                port=port,
                tls=None if certificate is None else load_certificate(*certificate),
                create_tables=create_tables,
                delete_tables=delete_tables,
            )
        )


@click.command()
@click.option(
    "--output",
    type=click.File("w", encoding="utf-8", lazy=True),
    default="-",
    help="File to write; standard output by default.",
)
def openapi(output: TextIO) -> None:
    """Write the OpenAPI document of the HTTP API. Needs no settings and no servers."""
    from api.app import create_app_without_context

    json.dump(create_app_without_context().openapi(), output, indent=2)
    output.write("\n")

"""The command `control-plane migrate`."""

# ruff: noqa: PLC0415 - heavy imports wait until the command runs, so that `--help` stays quick

import click

from runtime.commands import expected_errors


@click.command()
@click.option(
    "--revision",
    default="head",
    show_default=True,
    envvar="CONTROL_PLANE_MIGRATE_REVISION",
    help="The revision to stop at.",
)
@click.option(
    "--wait",
    "wait_seconds",
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    envvar="CONTROL_PLANE_MIGRATE_WAIT",
    help="How long to wait for Postgres to accept connections.",
)
def migrate(revision: str, wait_seconds: float) -> None:
    """Create or update the tables of the registry.

    Reads POSTGRES_HOST, POSTGRES_PORT, POSTGRES_DB, POSTGRES_USER and POSTGRES_PASSWORD. Several
    may run at once: they wait for each other.
    """
    from alembic.util.exc import CommandError

    from core.settings import RegistrySettings, load
    from registry.database.migrate import upgrade
    from runtime.logging import configure_logging

    configure_logging()
    with expected_errors(CommandError):
        upgrade(load(RegistrySettings), revision=revision, wait_seconds=wait_seconds)

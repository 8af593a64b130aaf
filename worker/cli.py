"""The `worker` command (also `loop`). Heavy imports are inside, so that `--help` is quick."""

import os
import sys

import click

from core.commands import expected_errors, one_line, table_options


@click.command()
@click.option(
    "--provisioner",
    required=True,
    metavar="KIND",
    envvar="CONTROL_PLANE_PROVISIONER",
    show_envvar=True,
    help="What makes the workers of executions, e.g. process.",
)
@table_options
def worker(*, provisioner: str, create_tables: bool, delete_tables: bool) -> None:
    """Run the Temporal worker: workflows, registry writes, provisioner calls.

    Connects to Postgres (POSTGRES_HOST, POSTGRES_DB, POSTGRES_USER, POSTGRES_PASSWORD) and to
    Temporal (TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE). Ends cleanly on SIGTERM; workers of executions
    that still run go on and are taken over by the next Temporal worker.
    """
    from core.logging import configure_logging  # noqa: PLC0415 - quick --help
    from provisioners.base import ProvisionerError  # noqa: PLC0415 - quick --help
    from worker.run import main  # noqa: PLC0415 - quick --help

    configure_logging()
    with expected_errors(ProvisionerError):
        try:
            main(provisioner=provisioner, create_tables=create_tables, delete_tables=delete_tables)
        except ConnectionError as error:
            click.ClickException(one_line(error)).show()
            # Not sys.exit: the failed connection's native threads were seen to abort the process
            # when they met an interpreter that was being taken down. Nothing is open that needs
            # closing.
            sys.stderr.flush()
            os._exit(1)

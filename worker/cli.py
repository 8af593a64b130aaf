"""The `worker` command (also `loop`). Heavy imports are inside, so that `--help` is quick."""

import click

from core.commands import ending_at_once, expected_errors, table_options


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
    with ending_at_once(), expected_errors(ProvisionerError):
        main(provisioner=provisioner, create_tables=create_tables, delete_tables=delete_tables)

"""The `worker` command (also `loop`). Heavy imports are inside, so that `--help` is quick."""

import click

from runtime.commands import (
    ending_at_once,
    expected_errors,
    provisioner_option,
    quick_imports,
    table_options,
    workers_as_root_option,
)


@click.command()
@provisioner_option(help_text="What makes the workers of executions.")
@table_options
@workers_as_root_option
def worker(*, provisioner: str, create_tables: bool, delete_tables: bool) -> None:
    """Run the Temporal worker; `loop` is the same as `worker`.

    It runs the workflows, the registry writes and the provisioner calls. Reads
    CONTROL_PLANE_API_KEY, the same as that of the API. Connects to Postgres (POSTGRES_HOST,
    POSTGRES_DB, POSTGRES_USER, POSTGRES_PASSWORD) and to Temporal (TEMPORAL_ADDRESS,
    TEMPORAL_NAMESPACE), and tells workers where the API is (CONTROL_PLANE_API_URL). With the
    provisioner external it also needs PROVISIONER_API_URL and PROVISIONER_API_KEY.

    Ends cleanly on SIGTERM; workers of executions that still run go on and are taken over by the
    next Temporal worker.
    """
    with quick_imports():
        import asyncio  # noqa: PLC0415 - quick --help

        from provisioners.base import ProvisionerError  # noqa: PLC0415 - quick --help
        from runtime.logging import configure_logging  # noqa: PLC0415 - quick --help
        from runtime.process import prepare_process  # noqa: PLC0415 - quick --help
        from worker.run import run_temporal_worker  # noqa: PLC0415 - quick --help

    configure_logging()
    prepare_process()
    with ending_at_once(), expected_errors(ProvisionerError):
        asyncio.run(
            run_temporal_worker(
                provisioner=provisioner, create_tables=create_tables, delete_tables=delete_tables
            )
        )

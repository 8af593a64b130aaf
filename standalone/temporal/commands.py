"""The `temporal` command: Temporal's own CLI, for a Temporal that nothing else can reach."""

# ruff: noqa: PLC0415 - quick --help

import os
import sys
from pathlib import Path

import click

from runtime.commands import data_folder_option


@click.command(
    short_help="Run a command of Temporal's own CLI, for the embedded Temporal.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@data_folder_option
@click.argument("arguments", metavar="ARGUMENT...", nargs=-1, type=click.UNPROCESSED)
def temporal(*, data_folder: Path | None, arguments: tuple[str, ...]) -> None:
    """Run a command of Temporal's own CLI, for the embedded Temporal.

    For example `control-plane temporal workflow list`. Only the user who runs `control-plane up`,
    and root, can do that: Temporal has a network of its own.
    """
    from standalone.data_folder import default_data_folder
    from standalone.errors import StandaloneError
    from standalone.temporal import enter_main
    from standalone.temporal.dev_server import find_binary
    from standalone.temporal.process_file import ProcessFile
    from standalone.temporal.relay_main import FRONT_END_PORT

    folder = data_folder or default_data_folder()
    pid = ProcessFile(folder / "temporal").read()
    if pid is None:
        raise click.ClickException(
            f"No closed Temporal runs with its data in {folder}. --data-folder names another "
            "folder; one that is open (--temporal-open) has a port for `temporal --address`"
        )
    given = os.environ.get("CONTROL_PLANE_TEMPORAL_BINARY")
    try:
        binary = find_binary(Path(given) if given else None)
    except StandaloneError as error:
        raise click.ClickException(str(error)) from None
    # What a shell, or a file of Temporal's CLI, says about servers is about others.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TEMPORAL_") or name == "TEMPORAL_NAMESPACE"
    }
    environment["TEMPORAL_ADDRESS"] = f"127.0.0.1:{FRONT_END_PORT}"
    environment["TEMPORAL_CONFIG_FILE"] = os.devnull
    program = [sys.executable, "-I", "-S", enter_main.__file__, str(pid), str(binary), *arguments]
    os.execve(program[0], program, environment)  # noqa: S606 - no shell is wanted

"""The `run` command. Heavy imports are inside, so that `--help` is quick."""

# ruff: noqa: PLC0415 - quick --help

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from control_plane._console.exits import EPILOG
from control_plane._console.foreign import raw_option
from control_plane._console.output import echo

from runtime.commands import (
    ending_at_once,
    expected_errors,
    quick_imports,
    temporal_open_option,
    workers_as_root_option,
)

if TYPE_CHECKING:
    from standalone.run.call import RunResult


@click.command(epilog=EPILOG, short_help="Deploy and call a function, without a server if need be.")
@click.argument("target", metavar="FILE.py::FUNCTION")
@click.option(
    "--input",
    "-i",
    "given_input",
    metavar="JSON|@FILE|-",
    help="The arguments: an array for those by position, an object for those by name, anything "
    "else for a single one. From a file with @, from standard input with -.",
)
@click.option("--project", metavar="NAME", help="Default: run- and the name of the file's folder.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Cancel the call after so many seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the call as the API gives it.")
@click.option("--url", metavar="URL", help="Address of a server; else CONTROL_PLANE_API_URL.")
@click.option(
    "--key", metavar="KEY", help="Its API key; better in CONTROL_PLANE_API_KEY or a profile."
)
@click.option("--profile", metavar="NAME", help="A server that `control-plane login` knows.")
@click.option(
    "--data-folder",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="CONTROL_PLANE_RUN_DATA_FOLDER",
    show_envvar=True,
    help="Where a control plane that this starts keeps its data. Default: that of `up`, with "
    "-run at its end.",
)
@temporal_open_option
@workers_as_root_option
@raw_option
def run(
    *,
    target: str,
    given_input: str | None,
    project: str | None,
    timeout: float | None,
    as_json: bool,
    url: str | None,
    key: str | None,
    profile: str | None,
    data_folder: Path | None,
    temporal_open: bool,
) -> None:
    """Deploy the folder of FILE.py, call one of its functions, print the result as JSON.

    Needs no server: if none is configured or none answers, it starts one for as long as it runs.
    What the function prints and how far it is goes to standard error. Ctrl-C cancels the call.
    """
    # Until there is something to clean up, Ctrl-C just ends this: the imports take a while.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with quick_imports():
        import asyncio

        from control_plane._console.exits import told_plainly
        from control_plane.commands.invoke import read_input

        from api.access.exposure import InsecureKeyError
        from provisioners.base import ProvisionerError
        from runtime.logging import configure_logging
        from runtime.process import prepare_process
        from standalone.errors import StandaloneError
        from standalone.run.display import display
        from standalone.run.run import RunOptions, run_function
        from standalone.run.server import run_data_folder
        from standalone.run.target import TargetError, find_target

    try:
        found = find_target(target)
    except TargetError as error:
        raise click.UsageError(str(error)) from None
    options = RunOptions(
        target=found,
        input_text=read_input(given_input),
        project=project or f"run-{found.folder.name or 'root'}",
        timeout=timeout,
        data_folder=data_folder or run_data_folder(),
        url=url,
        key=key,
        profile=profile,
        temporal_open=temporal_open,
    )
    configure_logging(level="CRITICAL")
    prepare_process()
    with (
        ending_at_once(),
        expected_errors(StandaloneError, ProvisionerError, usage=InsecureKeyError),
        told_plainly(url),
    ):
        with display() as shown:
            ended = asyncio.run(run_function(options, shown))
        sys.exit(_print(ended, as_json=as_json))


def _print(ended: "RunResult", *, as_json: bool) -> int:
    """Print the result or the error; returns the exit status."""
    from control_plane._call.invocation import result_of
    from control_plane._console.exits import Exit, exit_of_phase
    from control_plane._console.output import print_json
    from control_plane.errors import ControlPlaneError, InvocationFailedError

    info = ended.invocation
    if info is None:
        echo("Interrupted before the function was called", err=True)
        return Exit.INTERRUPTED
    if as_json:
        print_json(info.raw)
    try:
        result = result_of(info)
    except InvocationFailedError as error:
        # Its traceback is among the logs.
        echo(f"Error: {error.error}", err=True)
    except ControlPlaneError as error:
        echo(f"Error: {error}", err=True)
    else:
        if not as_json:
            print_json(result)
    if ended.timed_out and info.phase == "CANCELLED":
        return Exit.TIMED_OUT
    return exit_of_phase(info.phase)

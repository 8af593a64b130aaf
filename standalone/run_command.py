"""The `run` command. Heavy imports are inside, so that `--help` is quick."""

# ruff: noqa: PLC0415 - quick --help

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from core.commands import ending_at_once, expected_errors

if TYPE_CHECKING:
    from control_plane.models import InvocationInfo

    from standalone.run_call import Ended

_STATUSES: Final = {"SUCCEEDED": 0, "FAILED": 1, "CANCELLED": 3, "TIMED_OUT": 4}
_INTERRUPTED: Final = 130
"""As shells give it for a program that Ctrl-C has ended."""


@click.command()
@click.argument("target", metavar="FILE.py::FUNCTION")
@click.option(
    "--input",
    "given_input",
    default="null",
    metavar="JSON|@FILE|-",
    help="Arguments: an object by name, an array by position; @FILE and - (standard input) hold "
    "them. Without it the function gets none.",
)
@click.option("--project", metavar="NAME", help="Default: run- and the name of the file's folder.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Cancel the call after so many seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print an object that says how it went.")
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
def run(
    *,
    target: str,
    given_input: str,
    project: str | None,
    timeout: float | None,
    as_json: bool,
    url: str | None,
    key: str | None,
    profile: str | None,
    data_folder: Path | None,
) -> None:
    """Deploy the folder of FILE.py, call one of its functions, print the result as JSON.

    Needs no server: if none is configured or none answers, it starts one for as long as it runs.
    What the function prints and how far it is goes to standard error. Ctrl-C cancels the call.

    Ends with 0 if the function has a result, 1 if it failed or could not be called, 2 if this was
    called wrongly, 3 if the call was cancelled, 4 if its time was up, 130 if this was interrupted
    before there was a call.
    """
    import asyncio

    from control_plane.errors import ControlPlaneError

    from core.logging import configure_logging
    from provisioners.base import ProvisionerError
    from standalone.errors import StandaloneError
    from standalone.run import RunOptions, run_data_folder, run_function
    from standalone.run_display import display
    from standalone.run_target import TargetError, find_target

    try:
        found = find_target(target)
    except TargetError as error:
        raise click.UsageError(str(error)) from None
    options = RunOptions(
        target=found,
        input_text=_read_input(given_input),
        project=project or f"run-{found.folder.name or 'root'}",
        timeout=timeout,
        data_folder=data_folder or run_data_folder(),
        url=url,
        key=key,
        profile=profile,
    )
    configure_logging(level="CRITICAL")
    with (
        ending_at_once(),
        expected_errors(StandaloneError, ProvisionerError, ControlPlaneError),
    ):
        with display() as shown:
            ended = asyncio.run(run_function(options, shown))
        sys.exit(_print(ended, as_json=as_json))


def _read_input(given: str) -> str:
    try:
        if given == "-":
            text = sys.stdin.read()
        elif given.startswith("@"):
            text = Path(given[1:]).read_text(encoding="utf-8")
        else:
            text = given
        if text.strip():
            json.loads(text)
    except OSError as error:
        raise click.BadParameter(str(error), param_hint="--input") from None
    except ValueError as error:
        hint = """. A text needs its quotes: '"..."'"""
        raise click.BadParameter(f"This is no JSON: {error}{hint}", param_hint="--input") from None
    return text


def _print(ended: "Ended", *, as_json: bool) -> int:
    """Print the result or the error; returns the exit status."""
    info = ended.invocation
    if info is None:
        click.echo("Interrupted before the function was called", err=True)
        return _INTERRUPTED
    result, error = _result_of(info)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "project_name": info.project_name,
                    "version_id": info.version_id,
                    "function_name": info.function_name,
                    "invocation_id": info.invocation_id,
                    "phase": info.phase,
                    "result": result,
                    "error": error,
                }
            )
        )
    elif error is None:
        click.echo(json.dumps(result, ensure_ascii=False))
    if error is not None:
        click.echo(f"Error: {error}", err=True)
    if ended.timed_out and info.phase == "CANCELLED":
        return _STATUSES["TIMED_OUT"]
    return _STATUSES.get(info.phase, 1)


def _result_of(info: "InvocationInfo") -> tuple[Any, str | None]:
    from control_plane.errors import ControlPlaneError, InvocationFailedError
    from control_plane.invocation import result_of

    try:
        return result_of(info), None
    except InvocationFailedError as error:
        # Its traceback is among the logs.
        return None, error.error
    except ControlPlaneError as error:
        return None, str(error)

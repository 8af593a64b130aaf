"""The command `control-plane deploy`."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from control_plane import deploy as deployment
from control_plane._console.foreign import joined, json_of, one_line
from control_plane._console.output import coloured, echo
from control_plane._console.server import server_options
from control_plane._http.client import Client
from control_plane.deploy import Deployment, Report, Stage

_TITLES = {
    "find": "Functions",
    "bundle": "Code",
    "upload": "Uploaded",
    "register": "Version",
    "prepare": "Prepared",
}


@click.command(short_help="Upload code and register a version of it.")
@click.argument(
    "folder",
    metavar="[DIR]",
    default=".",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option("--project", required=True, metavar="NAME", help="The project; created if need be.")
@click.option(
    "--image", metavar="REF", help="A container image that holds the code: nothing is uploaded."
)
@click.option(
    "--module",
    "modules",
    multiple=True,
    metavar="NAME",
    help="A module to look for functions in; main by default. May be repeated.",
)
@click.option(
    "--python",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Interpreter to import the project with; by default that of its .venv, else this one.",
)
@click.option(
    "--wait",
    "wait_seconds",
    default=1800.0,
    show_default=True,
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="How long to wait until the functions are ready.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@server_options
def deploy(
    *,
    client: Client,
    folder: Path,
    project: str,
    image: str | None,
    modules: tuple[str, ...],
    python: Path | None,
    wait_seconds: float,
    as_json: bool,
) -> None:
    """Upload the code in DIR, register a version of its functions, wait until they are ready.

    Only what has changed is uploaded. What .gitignore and .controlplaneignore name is left out.

    Ends with 0 if all functions are ready and with 1 if not; for other statuses see
    `control-plane --help`.
    """
    began = time.monotonic()
    with _progress(quiet=as_json) as report:
        deployed = deployment.deploy(
            client,
            folder,
            project=project,
            image=image,
            modules=modules,
            python=python,
            wait_seconds=wait_seconds,
            report=report,
        )
    if as_json:
        echo(json_of(_as_json(deployed)))
    else:
        _print(deployed, seconds=time.monotonic() - began)
    if not deployed.is_ready:
        sys.exit(1)


def _as_json(deployed: Deployment) -> dict[str, object]:
    return {
        "project_name": deployed.project,
        "version_id": deployed.version_id,
        "image": deployed.image,
        "uploaded_bytes": deployed.uploaded_bytes,
        "ready": deployed.is_ready,
        "functions": [
            {"function_name": function.name, "status": function.status, "error": function.error}
            for function in deployed.functions
        ],
    }


def _print(deployed: Deployment, *, seconds: float) -> None:
    names = [one_line(function.name) for function in deployed.functions]
    width = max(map(len, names), default=0)
    for name, function in zip(names, deployed.functions, strict=True):
        echo(f"  {name:<{width}}  ", coloured(function.status))
    # All functions of a bundle fail for the same reason, as a rule.
    for error in dict.fromkeys(function.error for function in deployed.functions):
        if error is not None:
            echo(error, err=True)
    if deployed.is_ready:
        echo(f"Deployed {deployed.project} {deployed.version_id} in {seconds:.1f} s")
    elif deployed.is_over:
        echo("Error: not all functions can be prepared", err=True)
    else:
        echo("Error: not all functions are ready yet; the server goes on", err=True)


_Sink = Callable[[str], object]


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Report]:
    if quiet:
        yield lambda _stage, _text: None
        return
    lines = _Lines(show=lambda _line: None, keep=echo)
    with ExitStack() as stack:
        if sys.stdout.isatty():
            # Imported here: rich takes longer to import than the rest of a command.
            from control_plane._console import terminal  # noqa: PLC0415 - see above

            line = stack.enter_context(terminal.StageLine())
            lines = _Lines(show=line.show, keep=line.keep)
        try:
            yield lines.report
        finally:
            lines.end()


class _Lines:
    """Makes a line of each stage, and keeps the last one of each."""

    def __init__(self, *, show: _Sink, keep: _Sink) -> None:
        self._show = show
        self._keep = keep
        self._stage: Stage | None = None
        self._line = one_line("")

    def report(self, stage: Stage, text: str) -> None:
        """Show what is being done."""
        if stage != self._stage:
            self.end()
        self._stage = stage
        self._line = joined(f"{_TITLES[stage]:<9} ", one_line(text))
        self._show(self._line)

    def end(self) -> None:
        """Keep the line of the last stage."""
        # One that has failed before there was anything to say leaves no line.
        if self._stage is not None and self._line.strip() != _TITLES[self._stage]:
            self._keep(self._line.rstrip())

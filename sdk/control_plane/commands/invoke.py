"""The command `control-plane invoke`."""

import json
import sys
from pathlib import Path

import click

from control_plane._call.arguments import check_length
from control_plane._console.exits import EPILOG
from control_plane._console.foreign import raw_option
from control_plane._console.names import complete_function, complete_project
from control_plane._console.output import echo, json_option, print_json
from control_plane._console.server import server_options
from control_plane._console.watching import wait_and_end
from control_plane._http.client import Client


@click.command(epilog=EPILOG, short_help="Call a function and print its result.")
@click.argument("project", shell_complete=complete_project)
@click.argument("function", shell_complete=complete_function)
@click.option(
    "--input",
    "-i",
    "input_",
    metavar="JSON|@FILE|-",
    help="The arguments: an array for those by position, an object for those by name, anything "
    "else for a single one. From a file with @, from standard input with -.",
)
@click.option("--version", default="latest", metavar="ID", help="The version; latest by default.")
@click.option(
    "--idempotency-key",
    metavar="KEY",
    help="Names this call: the same call with the same key is made once only.",
)
@click.option("--follow", "-f", is_flag=True, help="Show phases, progress and log lines live.")
@click.option(
    "--wait/--detach", default=True, help="Wait for the end (the default), or print the call's id."
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="Wait so long at most. The call goes on.",
)
@json_option
@raw_option
@server_options
def invoke(
    *,
    client: Client,
    project: str,
    function: str,
    input_: str | None,
    version: str,
    idempotency_key: str | None,
    follow: bool,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Call FUNCTION of PROJECT, wait for its end, and print its result as JSON.

    Only the result goes to standard output; everything else goes to standard error.

    \b
    Examples:
      control-plane invoke shop greet --input '{"name": "Ada"}'
      control-plane invoke shop total --input @orders.json --follow
    """  # noqa: D301 - \b is click's mark
    if follow and not wait:
        raise click.UsageError("--follow waits for the end, --detach does not: give one of them")
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is for waiting, which --detach does not")
    text = read_input(input_)
    if idempotency_key is not None and version.lower() == "latest":
        # Under `latest`, the same call after a new version would be another one.
        version = client.get_version(project).version_id
    info = client.create_invocation(
        project, function, input_text=text, version=version, idempotency_key=idempotency_key
    )
    if not wait:
        if as_json:
            print_json(info.raw)
        else:
            echo(info.invocation_id)
        return
    wait_and_end(client, info.path, follow=follow, as_json=as_json, timeout=timeout)


def read_input(given: str | None) -> str:
    """Give the text of a call's input.

    Raises:
        click.ClickException: the file cannot be read, or it is not JSON.
    """
    if given is None:
        return "[]"
    place = "--input"
    if given == "-":
        text, place = sys.stdin.read(), "Standard input"
    elif given.startswith("@"):
        place = given[1:]
        try:
            text = Path(place).read_text("utf-8")
        except (OSError, ValueError) as error:
            raise click.UsageError(f"--input: {place} cannot be read: {error}") from None
    else:
        text = given
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = ""
        if given == text and not text.startswith(("[", "{", '"')):
            hint = f". A text wants quotes: --input '{json.dumps(text, ensure_ascii=False)}'"
        raise click.UsageError(f"{place} is not JSON: {error}{hint}") from None
    text = text.strip()
    try:
        check_length(text)
    except ValueError as error:
        raise click.UsageError(f"{place}: {error}") from None
    return text

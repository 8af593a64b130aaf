"""The command `control-plane retry`."""

import click

from control_plane._console.exits import EPILOG
from control_plane._console.foreign import raw_option
from control_plane._console.output import echo, json_option, print_json
from control_plane._console.server import server_options
from control_plane._console.watching import wait_and_end
from control_plane._http.client import Client


@click.command(epilog=EPILOG, short_help="Make a call again.")
@click.argument("invocation_id")
@click.option("--follow", "-f", is_flag=True, help="Show phases, progress and log lines live.")
@click.option("--wait", is_flag=True, help="Wait for the end and print the result.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="Wait so long at most. The call goes on.",
)
@json_option
@raw_option
@server_options
def retry(
    *,
    client: Client,
    invocation_id: str,
    follow: bool,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Call again what INVOCATION_ID has called: a new call, same input and version. Prints its id.

    With --wait or --follow it ends as `invoke` does.
    """
    if timeout is not None and not (wait or follow):
        raise click.UsageError("--timeout is for --wait and --follow")
    old = client.find_invocation(invocation_id)
    info = client.create_invocation(
        old.project_name, old.function_name, input_text=old.input, version=old.version_id
    )
    if not (wait or follow):
        if as_json:
            print_json(info.raw)
        else:
            echo(info.invocation_id)
        return
    wait_and_end(client, info.path, follow=follow, as_json=as_json, timeout=timeout)

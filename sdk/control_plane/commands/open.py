"""The command `control-plane open`."""

import sys

import click

from control_plane._console.exits import CommandError
from control_plane._console.output import echo, is_terminal, json_option, print_json
from control_plane._console.server import server_options
from control_plane._http.client import Client


@click.command("open", short_help="Print a call's address in Temporal's UI.")
@click.argument("invocation_id")
@click.option("--browser", is_flag=True, help="Open it in a browser too, on a terminal.")
@json_option
@server_options
def open_(*, client: Client, invocation_id: str, browser: bool, as_json: bool) -> None:
    """Print the address of a call in Temporal's web UI."""
    url = client.find_invocation(invocation_id).temporal_url
    if url is None:
        raise CommandError(
            "The server knows no address of Temporal's web UI; TEMPORAL_UI_URL names it there"
        )
    if as_json:
        print_json({"invocation_id": invocation_id, "temporal_url": url})
    else:
        echo(url)
    # Other schemes may start any program that this machine has for them.
    if browser and is_terminal(sys.stdout) and url.startswith(("http://", "https://")):
        click.launch(url)

"""The commands `control-plane open` and `control-plane ui`."""

import sys
from collections.abc import Callable
from typing import TypeVar

import click

from control_plane._console.exits import CommandError
from control_plane._console.output import echo, is_terminal, json_option, print_json
from control_plane._console.server import server_options
from control_plane._http import requests
from control_plane._http.client import Client
from control_plane.errors import NotFoundError

C = TypeVar("C", bound=Callable[..., object])


def _browser_option(command: C) -> C:
    return click.option("--browser", is_flag=True, help="Open it in a browser too, on a terminal.")(
        command
    )


@click.command("open", short_help="Print a call's address in Temporal's UI.")
@click.argument("invocation_id")
@_browser_option
@json_option
@server_options
def open_(*, client: Client, invocation_id: str, browser: bool, as_json: bool) -> None:
    """Print an address that opens a call in Temporal's web UI.

    Where that asks for a login, as with `control-plane up`, the address has it in it. Such an
    address works once, for five minutes.
    """
    found = client.find_invocation(invocation_id)
    try:
        url = client.run(requests.open_temporal_ui(found.invocation_id))
    except NotFoundError as error:
        # A server that is older than this library has no such links, and its UI has no login.
        if found.temporal_url is None:
            raise CommandError(error.detail) from None
        url = found.temporal_url
    _show(url, {"invocation_id": invocation_id, "temporal_url": url}, browser, as_json)


@click.command("ui", short_help="Print an address that opens Temporal's UI.")
@_browser_option
@json_option
@server_options
def ui(*, client: Client, browser: bool, as_json: bool) -> None:
    """Print an address that opens Temporal's web UI, with all calls.

    Where that asks for a login, as with `control-plane up`, the address has it in it. Such an
    address works once, for five minutes.
    """
    url = client.run(requests.open_temporal_ui(None))
    _show(url, {"temporal_url": url}, browser, as_json)


def _show(url: str, facts: dict[str, str], browser: bool, as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        echo(url)
    # Other schemes may start any program that this machine has for them.
    if browser and is_terminal(sys.stdout) and url.startswith(("http://", "https://")):
        click.launch(url)

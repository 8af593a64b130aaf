"""Which server a command is for: options that go before the environment and the profiles."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import click

from control_plane._console.exits import told_plainly
from control_plane._console.names import complete_profile
from control_plane._http.client import Client

R = TypeVar("R")


def server_options(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options `--url`, `--key` and `--profile`, and hand it a `client`.

    To be put below the other options. Without these three the client is what `find_server` finds.
    Errors of the library end the command with a line, and with a status of `exits.Exit`.
    """

    @click.option(
        "--url", metavar="URL", help="Address of the server; else from CONTROL_PLANE_API_URL."
    )
    @click.option(
        "--key",
        metavar="KEY",
        help="API key; better in CONTROL_PLANE_API_KEY or a profile: others see arguments.",
    )
    @click.option(
        "--profile",
        metavar="NAME",
        shell_complete=complete_profile,
        help="A server that `control-plane login` knows.",
    )
    @wraps(command)
    def with_client(
        *args: object, url: str | None, key: str | None, profile: str | None, **kwargs: object
    ) -> R:
        with (
            told_plainly(),
            Client(url, key, profile=profile) as client,
            told_plainly(client.url),
        ):
            return command(*args, client=client, **kwargs)

    return with_client

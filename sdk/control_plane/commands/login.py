"""The commands `control-plane login` and `control-plane logout`."""

import os
import sys
from pathlib import Path

import click

from control_plane._console.exits import CommandError, Exit, told_plainly
from control_plane._console.names import complete_profile
from control_plane._console.output import echo, is_terminal, json_option, print_json, remark
from control_plane._http.client import Client
from control_plane._http.profiles import (
    KEY_VARIABLE,
    URL_VARIABLE,
    Profile,
    check_url,
    load_profiles,
    save_profiles,
)

_USUAL_URL = "http://127.0.0.1:5000"
_USUAL_NAME = "default"


@click.command(short_help="Keep the address and key of a server.")
@click.option(
    "--profile",
    "name",
    default=_USUAL_NAME,
    show_default=True,
    metavar="NAME",
    shell_complete=complete_profile,
    help="The name under which the server is kept.",
)
@click.option("--url", metavar="URL", help="Address of the server; else from the environment.")
@click.option(
    "--key-file",
    metavar="FILE",
    help="A file that holds the API key; - for standard input.",
)
@json_option
def login(*, name: str, url: str | None, key_file: str | None, as_json: bool) -> None:
    """Keep the address and the API key of a server, so that other commands find it.

    What is not given is asked for. Scripts give the address with --url or CONTROL_PLANE_API_URL,
    and the key with --key-file, CONTROL_PLANE_API_KEY, or on standard input. Both are tried
    before they are written down. The server becomes the default one.
    """
    with told_plainly():
        profiles = load_profiles()
        url = check_url(
            url or os.environ.get(URL_VARIABLE) or _ask_for_url(profiles.profiles.get(name))
        )
        key = _read_key(key_file)
        with told_plainly(url), Client(url, key) as client:
            count = len(client.list_projects())
    try:
        file = save_profiles(profiles.with_profile(name, Profile(url=url, key=key)))
    except OSError as error:
        raise CommandError(f"The profile cannot be written: {error}") from None
    if as_json:
        print_json({"profile": name, "url": url, "file": str(file)})
        return
    projects = f"{count} project" if count == 1 else f"{count} projects"
    echo(f"Logged in to {url} ({projects}); kept as {name!r} in {file}")
    for variable in (URL_VARIABLE, KEY_VARIABLE):
        if os.environ.get(variable):
            remark(f"{variable} is set, and goes before the profile")


def _ask_for_url(known: Profile | None) -> str:
    if not is_terminal(sys.stdin):
        raise click.UsageError("Which server? Give --url, or set CONTROL_PLANE_API_URL")
    return str(
        click.prompt("Address of the server", default=known.url if known else _USUAL_URL, err=True)
    )


def _read_key(key_file: str | None) -> str:
    if key_file not in (None, "-"):
        try:
            key = Path(str(key_file)).read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            raise click.UsageError(f"--key-file cannot be read: {error}") from None
    elif key_file is None and (given := os.environ.get(KEY_VARIABLE)):
        key = given
    elif key_file is None and is_terminal(sys.stdin):
        key = click.prompt("API key", hide_input=True, err=True)
    else:
        key = sys.stdin.read().strip()
    if not key:
        raise click.UsageError("There is no key in it" if key_file else "The key is empty")
    return key


@click.command(short_help="Forget a server and its key.")
@click.argument("name", required=False, shell_complete=complete_profile)
@json_option
def logout(*, name: str | None, as_json: bool) -> None:
    """Forget the profile NAME, or the default one, with its key."""
    with told_plainly():
        profiles = load_profiles()
        profiles.choose(name)
    chosen = name or profiles.default or next(iter(profiles.profiles), None)
    if chosen is None or (name is None and profiles.choose() is None):
        raise CommandError("There is no default profile: name one", Exit.USAGE)
    try:
        file = save_profiles(profiles.without_profile(chosen))
    except OSError as error:
        raise CommandError(f"The profile cannot be removed: {error}") from None
    if as_json:
        print_json({"profile": chosen, "file": str(file)})
    else:
        echo(f"Removed {chosen!r} from {file}")

"""The commands `control-plane profiles` and `control-plane profiles use`."""

import os
from dataclasses import replace

import click

from control_plane._console.exits import CommandError, told_plainly
from control_plane._console.names import complete_profile
from control_plane._console.output import echo, json_option, print_json, remark
from control_plane._console.tables import Column, print_table
from control_plane._http.profiles import (
    KEY_VARIABLE,
    PROFILE_VARIABLE,
    URL_VARIABLE,
    load_profiles,
    save_profiles,
)


@click.group(invoke_without_command=True, short_help="List the servers that login has kept.")
@json_option
@click.pass_context
def profiles(ctx: click.Context, *, as_json: bool) -> None:
    """List the servers that `login` has kept; `profiles use NAME` makes one the default."""
    if ctx.invoked_subcommand is not None:
        return
    with told_plainly():
        found = load_profiles()
        named = os.environ.get(PROFILE_VARIABLE)
        default = named or found.default
        if default is None and len(found.profiles) == 1:
            default = next(iter(found.profiles))
    if as_json:
        print_json(
            [
                {"profile": name, "url": each.url, "default": name == default}
                for name, each in found.profiles.items()
            ]
        )
        return
    if not found.profiles:
        remark("No profiles yet; `control-plane login` makes one")
        return
    print_table(
        (Column("PROFILE"), Column("DEFAULT"), Column("URL")),
        [
            (name, "yes" if name == default else "", each.url)
            for name, each in found.profiles.items()
        ],
    )
    for variable in (URL_VARIABLE, KEY_VARIABLE):
        if os.environ.get(variable):
            remark(f"{variable} is set, and goes before the default profile")


@profiles.command()
@click.argument("name", shell_complete=complete_profile)
@json_option
def use(*, name: str, as_json: bool) -> None:
    """Make the profile NAME the default."""
    with told_plainly():
        found = load_profiles()
        chosen = found.choose(name)
    try:
        save_profiles(replace(found, default=name))
    except OSError as error:
        raise CommandError(f"The profile cannot be written: {error}") from None
    url = "" if chosen is None else chosen.url
    if as_json:
        print_json({"profile": name, "url": url, "default": True})
    else:
        echo(f"{name} ({url}) is the default now")

"""Completion of names in a shell: asks the server for a moment, and says nothing if that fails."""

from collections.abc import Callable, Iterable

import click

from control_plane._console.foreign import one_line
from control_plane._http.client import Client
from control_plane._http.profiles import load_profiles

_SECONDS = 1.5
_MOST = 500


def complete_project(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Give the projects whose names begin so. Names that hide something are left out."""
    return _ask(
        ctx,
        lambda client: (each.project_name for each in client.list_projects()),
        incomplete,
    )


def complete_function(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Give the functions, of the project that is named before, whose names begin so."""
    project = ctx.params.get("project")
    if not project:
        return []
    version = ctx.params.get("version") or "latest"
    return _ask(
        ctx,
        lambda client: (
            each.function_name for each in client.get_version(project, version).functions
        ),
        incomplete,
    )


def complete_profile(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Give the profiles whose names begin so."""
    try:
        return sorted(name for name in load_profiles().profiles if name.startswith(incomplete))
    except Exception:  # noqa: BLE001 - whatever is wrong, a shell's line is no place to say it
        return []


def _ask(
    ctx: click.Context, names: Callable[[Client], Iterable[str]], incomplete: str
) -> list[str]:
    try:
        given = {name: ctx.params.get(name) for name in ("url", "key", "profile")}
        with Client(**given, timeout=_SECONDS, patience=0.0) as client:
            return [
                name
                for name in names(client)
                if name.startswith(incomplete) and name == one_line(name)
            ][:_MOST]
    except Exception:  # noqa: BLE001 - whatever is wrong, a shell's line is no place to say it
        return []

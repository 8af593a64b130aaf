"""The `control-plane` command: a group whose subcommands are found, not listed.

Any installed package adds commands through entry points in the group `control_plane.commands`; each
names a `click.Command`. A command's module is imported when the command is used, and for the
group's own help, so such modules must be light: heavy imports belong into the function bodies.
"""

from importlib.metadata import EntryPoint, entry_points

import click

from control_plane.commands.exits import EPILOG

ENTRY_POINT_GROUP = "control_plane.commands"

_COMMANDS_OF_THE_SERVER = ("api", "demo", "loop", "migrate", "openapi", "run", "up", "worker")
"""Not listed where they are not installed, but explained to those who try them."""
_SERVER_IS_MISSING = (
    "`control-plane {name}` is part of the server, and only the SDK is installed here. Install the "
    "server from the control-plane repository: `make install` in it. With a server elsewhere, "
    "`control-plane deploy` and `control-plane invoke` are enough"
)


class InstalledCommands(click.Group):
    """A group that looks its commands up among the entry points of the installed packages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names of all commands, without importing them."""
        return sorted({*super().list_commands(ctx), *_found()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; a stub that says why stands in for one that cannot be imported."""
        known = super().get_command(ctx, cmd_name)
        if known is not None:
            return known
        entry_point = _found().get(cmd_name)
        if entry_point is not None:
            return _load(entry_point)
        if cmd_name in _COMMANDS_OF_THE_SERVER:
            return _complaining(cmd_name, _SERVER_IS_MISSING.format(name=cmd_name))
        return None


def _found() -> dict[str, EntryPoint]:
    return {entry_point.name: entry_point for entry_point in entry_points(group=ENTRY_POINT_GROUP)}


def _load(entry_point: EntryPoint) -> click.Command:
    try:
        command = entry_point.load()
    except Exception as error:  # noqa: BLE001 - a broken command must not take the others along
        text = " ".join(str(error).split())
        return _broken(entry_point, f"{type(error).__name__}: {text}")
    if not isinstance(command, click.Command):
        return _broken(entry_point, f"{entry_point.value} is no click command")
    return command


def _broken(entry_point: EntryPoint, reason: str) -> click.Command:
    return _complaining(
        entry_point.name,
        f"The command {entry_point.name!r} cannot be loaded: {reason}",
        short_help=f"(cannot be loaded: {reason})",
    )


def _complaining(name: str, message: str, *, short_help: str | None = None) -> click.Command:
    def complain() -> None:
        raise click.ClickException(message)

    return click.Command(
        name,
        callback=complain,
        short_help=short_help,
        # Whatever is asked of it, also --help, the answer is why it cannot be used.
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


@click.command(
    cls=InstalledCommands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)
@click.version_option(package_name="control-plane-sdk", prog_name="control-plane")
def control_plane() -> None:
    """Run functions on workers of their own, and watch over them."""


def main() -> None:
    """Be the program `control-plane`."""
    control_plane(prog_name="control-plane")

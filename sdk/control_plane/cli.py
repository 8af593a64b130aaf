"""The `control-plane` command: a group whose subcommands are imported when they are used.

The SDK's own commands stand in a table. Any installed package adds more through entry points in the
group `control_plane.commands`; each names a `click.Command`. The group's help imports those of
other packages than this project's, so their modules must be light.
"""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from control_plane._console.exits import EPILOG, show_unexpected, visible_errors
from control_plane.commands.table import SDK_COMMANDS, SERVER_COMMANDS

ENTRY_POINT_GROUP = "control_plane.commands"

_SERVER_IS_MISSING = (
    "`control-plane {name}` is part of the server, and only the SDK is installed here. Install the "
    "server from the control-plane repository: `make install` in it. With a server elsewhere, "
    "`control-plane deploy` and `control-plane invoke` are enough"
)


class LazyCommand(click.Command):
    """Stands for a command on the help page; the command itself is imported when it is used."""

    def __init__(
        self,
        name: str,
        *,
        load: Callable[[], click.Command],
        text: str | None = None,
        short_help: str | None = None,
    ) -> None:
        super().__init__(name, help=text, short_help=short_help)
        self._load = load

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401 - click's
    ) -> click.Context:
        """Make the context of the command itself, which click then goes on with."""
        return self._load().make_context(info_name, args, parent, **extra)


class InstalledCommands(click.Group):
    """A group of the SDK's commands, and of those among the installed packages' entry points."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401 - click's
    ) -> click.Context:
        """Read the options of the group."""
        with visible_errors():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's
        """Run the command that was named."""
        with visible_errors():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names of all commands, without importing them."""
        return sorted({*super().list_commands(ctx), *SDK_COMMANDS, *_found()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Give a command; a stub that says why stands in for one that cannot be imported."""
        known = super().get_command(ctx, cmd_name)
        if known is not None:
            return known
        if cmd_name in SDK_COMMANDS:
            place, short_help = SDK_COMMANDS[cmd_name]
            own = EntryPoint(cmd_name, f"control_plane.commands.{place}", ENTRY_POINT_GROUP)
            return LazyCommand(cmd_name, short_help=short_help, load=lambda: _load(own))
        entry_point = _found().get(cmd_name)
        if cmd_name not in SERVER_COMMANDS:
            return None if entry_point is None else _load(entry_point)
        if entry_point is None:
            return _complaining(cmd_name, _SERVER_IS_MISSING.format(name=cmd_name))
        found = entry_point
        return LazyCommand(cmd_name, text=SERVER_COMMANDS[cmd_name], load=lambda: _load(found))


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
    sys.excepthook = show_unexpected
    control_plane(prog_name="control-plane")

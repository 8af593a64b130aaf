"""The command `control-plane completion`."""

import click
from click.shell_completion import get_completion_class

from control_plane._console.output import echo

PROGRAM = "control-plane"
VARIABLE = "_CONTROL_PLANE_COMPLETE"


@click.command(short_help="Print the script for completion in a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> None:
    """Print the script that lets a shell complete commands, options and names.

    \b
    For the shell that runs:   eval "$(control-plane completion bash)"
    For all that are to come:  put that line into ~/.bashrc, or with zsh into ~/.zshrc;
                               fish: control-plane completion fish >
                                     ~/.config/fish/completions/control-plane.fish

    The names of projects and functions come from the server, if it answers quickly.
    """  # noqa: D301 - \b is click's mark
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click has all three
    echo(kind(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())

"""The command `control-plane delete`."""

import sys
import time

import click

from control_plane._console.names import complete_project
from control_plane._console.output import echo, is_terminal, json_option, print_json, remark
from control_plane._console.server import server_options
from control_plane._http.client import Client
from control_plane.errors import NotFoundError

_PAUSE_SECONDS = 0.5


@click.command(short_help="Delete a project.")
@click.argument("project", shell_complete=complete_project)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--wait", is_flag=True, help="Wait until it is gone.")
@json_option
@server_options
def delete(*, client: Client, project: str, yes: bool, wait: bool, as_json: bool) -> None:
    """Delete PROJECT: its versions with their code, its calls and their logs.

    What runs in it is cancelled. It is gone when nothing runs any more.
    """
    found = client.get_project(project)
    if not yes:
        if not is_terminal(sys.stdin):
            raise click.UsageError("There is nobody to ask: give --yes to delete the project")
        click.confirm(
            f"Delete the project {project!r} of {client.url} with all that is in it?",
            abort=True,
            err=True,
        )
    asked = client.delete_project(project)
    if wait:
        try:
            # A new project may have got the name meanwhile.
            while client.get_project(project).creation_time == found.creation_time:
                time.sleep(_PAUSE_SECONDS)
        except NotFoundError:
            pass
    if as_json:
        print_json({**asked.raw, "deleted": wait})
    elif wait:
        echo(f"{project} is deleted")
    else:
        echo(f"{project} is being deleted")
        remark("What runs in it is cancelled; it is gone when nothing runs any more")

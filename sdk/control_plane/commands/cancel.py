"""The command `control-plane cancel`."""

import sys

import click

from control_plane._console.exits import Exit, as_command_error
from control_plane._console.output import coloured, echo, json_option, print_json
from control_plane._console.server import server_options
from control_plane._http.client import Client
from control_plane.errors import ConflictError, NotFoundError
from control_plane.models import InvocationInfo


@click.command(short_help="Cancel calls and what they have called.")
@click.argument("invocation_ids", metavar="INVOCATION_ID...", nargs=-1, required=True)
@click.option("--wait", is_flag=True, help="Wait until they have ended and their workers are gone.")
@json_option
@server_options
def cancel(*, client: Client, invocation_ids: tuple[str, ...], wait: bool, as_json: bool) -> None:
    """Cancel calls, and all that they have called in turn.

    A call that has ended already is left as it is; that is no error. The other calls are cancelled
    also if one of them does not exist.
    """
    found: list[InvocationInfo] = []
    missing = False
    for invocation_id in dict.fromkeys(invocation_ids):
        try:
            found.append(_cancel(client, invocation_id))
        except NotFoundError as error:
            missing = True
            as_command_error(error, server=client.url).show()
    if wait:
        found = [client.wait_for_invocation(info.path) for info in found]
    if as_json:
        print_json([info.raw for info in found])
    else:
        for info in found:
            echo(f"{info.invocation_id}  ", coloured(info.phase))
    if missing:
        sys.exit(Exit.NOT_FOUND)


def _cancel(client: Client, invocation_id: str) -> InvocationInfo:
    info = client.find_invocation(invocation_id)
    if info.has_ended:
        return info
    try:
        return client.cancel_invocation(info.path)
    except ConflictError:
        # It has ended in between.
        return client.find_invocation(invocation_id)

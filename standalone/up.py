"""The `up` command: run the stack until told to stop."""

import asyncio
from shlex import quote

from control_plane._console.output import echo

from core.temporal.client import SOCKET_SCHEME
from runtime.shutdown import stop_on_signals
from standalone.options import StackOptions
from standalone.stack import Stack, running_stack


async def run_until_stopped(options: StackOptions) -> int:
    """Run the stack until SIGTERM or SIGINT; returns the exit code.

    Raises:
        StandaloneError: a part cannot be started.
    """
    stop = stop_on_signals()
    echo(f"Starting control-plane, data in {options.data_folder} ...")
    async with running_stack(options) as stack:
        echo(_describe(stack))
        stopped = asyncio.create_task(stop.wait())
        died = asyncio.create_task(stack.part_died())
        await asyncio.wait([stopped, died], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if stop.is_set():
            died.cancel()
            echo("Stopping ... (once more Ctrl-C to stop at once)")
            exit_code = 0
        else:
            echo(f"control-plane: {died.result()}", err=True)
            exit_code = 1
    if exit_code == 0:
        echo("Stopped. The data is kept, and workers that run go on; start again to go on.")
    return exit_code


def _way_to_temporal(stack: Stack) -> str:
    address = stack.temporal.temporal_address
    if not address.startswith(SOCKET_SCHEME):
        return address
    return "for its owner only: control-plane temporal workflow list"


def _describe(stack: Stack) -> str:
    key = stack.api_key_file or "the one in CONTROL_PLANE_API_KEY"
    lines = [
        "",
        f"  API            {stack.api_url}",
        f"  API reference  {stack.api_url}/docs",
        f"  API key file   {key}",
        f"  Temporal UI    {stack.temporal_ui_link or '(not configured: set TEMPORAL_UI_URL)'}",
        f"  Temporal       {_way_to_temporal(stack)}",
        f"  Data           {stack.data_folder}",
        f"  Log            {stack.log_file}",
        "",
        "Ready. Ctrl-C stops it.",
    ]
    if stack.api_key_file is not None:
        lines += [
            "In another terminal:",
            "",
            f"  control-plane login --url {stack.api_url} --key-file {quote(str(key))}",
            "  control-plane list",
            "",
        ]
    return "\n".join(lines)

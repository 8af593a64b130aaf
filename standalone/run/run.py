"""The `run` command: one function, deployed and called, on a stack of its own if need be."""

import asyncio
import json
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_plane._call.connection import Connection
from control_plane._http.client import Client
from control_plane.deploy import Deployment
from control_plane.errors import ControlPlaneError
from control_plane.models import InvocationPath

from runtime.shutdown import stop_on_signals
from standalone.run.call import RunResult, follow
from standalone.run.deployment import DeploymentStoppedError, deploy_folder
from standalone.run.display import Display
from standalone.run.server import ServerOfRun
from standalone.run.target import Target

_LEFT_SECONDS: Final = 30.0
_LEFT_CALL: Final = "call-that-runs"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the caller chooses."""

    target: Target
    input_text: str
    """JSON."""
    project: str
    timeout: float | None
    """Seconds from the call on, after which it is cancelled."""
    data_folder: Path
    """Of the stack that is started if no server answers."""
    url: str | None
    key: str | None
    profile: str | None
    temporal_open: bool
    """See `StackOptions`."""


async def run_function(options: RunOptions, display: Display) -> RunResult:
    """Deploy the folder of a function, call it, and show what happens until it has ended.

    The first SIGINT or SIGTERM cancels the call and waits for its clean-up; a second one ends the
    process at once.

    Raises:
        ControlPlaneError: it cannot be deployed or called.
        StandaloneError: the stack cannot be started, or breaks.
        ProvisionerError: the same.
    """
    run = _Run(options, display)
    work = asyncio.create_task(run.whole())
    stopping = asyncio.create_task(run.stop.wait())
    await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    # Once there is a call, the run itself sees to its end.
    if run.stop.is_set() and not run.calls:
        work.cancel()
    try:
        return await work
    except (asyncio.CancelledError, DeploymentStoppedError):
        return RunResult(invocation=None)


class _Run:
    """One run, step by step."""

    def __init__(self, options: RunOptions, display: Display) -> None:
        self.stop = stop_on_signals()
        self.calls = False
        """Whether there is a call, or is about to be."""
        self._options = options
        self._display = display
        self._server = ServerOfRun(
            display,
            data_folder=options.data_folder,
            url=options.url,
            key=options.key,
            profile=options.profile,
            temporal_open=options.temporal_open,
        )
        self._left: InvocationPath | None = None

    async def whole(self) -> RunResult:
        async with AsyncExitStack() as exits:
            server = await self._server.find_or_start(exits)
            client = exits.enter_context(Client(server.url, server.key))
            if self._server.stack is not None:
                await self._cancel_what_was_left(client)
            deployed = await deploy_folder(
                self._options.target,
                client,
                project=self._options.project,
                display=self._display,
                stop=self.stop,
            )
            ended = await self._call(client, deployed)
            if self._left is not None:
                await self._end_what_was_left(client, self._left)
            if self._server.stack is not None:
                self._display.status("Stopping the control plane ...")
        self._display.status("")
        return ended

    async def _cancel_what_was_left(self, client: Client) -> None:
        """Cancel the call of a run that was ended before it could see to that."""
        left = self._options.data_folder / _LEFT_CALL
        try:
            path = InvocationPath(**json.loads(left.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return
        self._display.say(f"Cancelling {path.invocation_id}, which an earlier run has left")
        with suppress(ControlPlaneError):
            await Connection(client).async_client.cancel_invocation(path)
            self._left = path

    async def _end_what_was_left(self, client: Client, path: InvocationPath) -> None:
        """Wait until that call is over; without a stack nothing would end its worker."""
        self._display.status(f"Waiting for the end of {path.invocation_id} ...")
        # Its worker finds no API any more, and is killed after its time to clean up.
        with suppress(ControlPlaneError):
            await Connection(client).async_client.wait_for_invocation(path, _LEFT_SECONDS)

    async def _call(self, client: Client, deployed: Deployment) -> RunResult:
        target = self._options.target
        self.calls = True
        async_client = Connection(client).async_client
        info = await async_client.create_invocation(
            deployed.project,
            target.function_name,
            version=deployed.version_id,
            input_text=self._options.input_text,
        )
        left = None if self._server.stack is None else self._server.stack.data_folder / _LEFT_CALL
        if left is not None:
            left.write_text(json.dumps(vars(info.path)))
        self._display.say(f"Called {target.name}: {info.invocation_id}")
        ended = await follow(
            async_client,
            info.path,
            display=self._display,
            stop=self.stop,
            timeout=self._options.timeout,
            stack=self._server.stack,
        )
        if left is not None:
            left.unlink()
        return ended

"""The `run` command: one function, deployed and called, on a stack of its own if need be."""

import asyncio
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from control_plane._call.connection import Connection
from control_plane._call.invocation import Invocation
from control_plane._deploy.bundle import survey
from control_plane._http.async_client import AsyncClient
from control_plane._http.client import Client
from control_plane._http.profiles import (
    PROFILE_VARIABLE,
    URL_VARIABLE,
    Profile,
    find_server,
    load_profiles,
)
from control_plane.deploy import Deployment, Stage, deploy, size_text
from control_plane.errors import BadRequestError, ControlPlaneError, ServerConnectionError
from control_plane.models import InvocationPath

from runtime.shutdown import stop_on_signals
from standalone.data_folder import default_data_folder
from standalone.errors import DataFolderIsInUseError, StandaloneError
from standalone.run.call import Ended, follow
from standalone.run.display import Display
from standalone.run.target import Target
from standalone.running_server import running_server
from standalone.stack import Stack, StackOptions, running_stack

T = TypeVar("T")

_MOST_BYTES: Final = 2**30
_MOST_FILES: Final = 100_000
"""More than any server takes. Beyond it nothing is read, let alone uploaded."""
_PATIENCE_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.5
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


def run_data_folder() -> Path:
    """Choose the folder of the stack that runs start; not that of `up`.

    The API's port is another one each time, so workers of `up` that go on without it would not
    find it here, nor those of a run there.
    """
    usual = default_data_folder()
    return usual.with_name(f"{usual.name}-run")


async def run_function(options: RunOptions, display: Display) -> Ended:
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
    except (asyncio.CancelledError, _StoppedError):
        return Ended(invocation=None)


class _StoppedError(Exception):
    """The deployment ends here, since it was interrupted."""


class _Run:
    """One run, step by step."""

    def __init__(self, options: RunOptions, display: Display) -> None:
        self.stop = stop_on_signals()
        self.calls = False
        """Whether there is a call, or is about to be."""
        self._options = options
        self._display = display
        self._stack: Stack | None = None
        self._starts = False
        self._left: InvocationPath | None = None

    async def whole(self) -> Ended:
        async with AsyncExitStack() as exits:
            server = await self._server(exits)
            client = exits.enter_context(Client(server.url, server.key))
            if self._stack is not None:
                await self._cancel_what_was_left(client)
            deployed = await self._deploy(client)
            ended = await self._call(client, deployed)
            if self._left is not None:
                await self._end_what_was_left(client, self._left)
            if self._stack is not None:
                self._display.status("Stopping the control plane ...")
        self._display.status("")
        return ended

    async def _server(self, exits: AsyncExitStack) -> Profile:
        """Find a server that answers, or start one."""
        found = await self._configured_server()
        if found is not None:
            self._display.say(f"Using {found.url}")
            return found
        told, patience = False, time.monotonic() + _PATIENCE_SECONDS
        while True:
            for folder in (_folder_of_up(), self._options.data_folder):
                url = running_server(folder)
                if url is not None:
                    self._display.say(f"Using {url}, which runs with its data in {folder}")
                    return Profile(url=url, key=_key_of(folder))
            try:
                return await self._start(exits)
            except DataFolderIsInUseError as error:
                if "control-plane run" not in str(error) and time.monotonic() > patience:
                    raise
                if not told:
                    self._display.say(
                        f"{str(error).partition('. ')[0]}. Waiting until it is free ... "
                        "(`control-plane up` in another terminal serves many runs at once)"
                    )
                    told = True
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _configured_server(self) -> Profile | None:
        options = self._options
        asked_for = options.url or options.profile
        named = asked_for or os.environ.get(URL_VARIABLE) or os.environ.get(PROFILE_VARIABLE)
        if not named and load_profiles().choose() is None:
            return None
        server = find_server(options.url, options.key, profile=options.profile)
        async with AsyncClient(server.url, server.key, patience=1) as client:
            try:
                await client.health()
            except ServerConnectionError as error:
                if asked_for:
                    raise
                self._display.say(f"{error}. So this run gets a control plane of its own")
                return None
        return server

    async def _start(self, exits: AsyncExitStack) -> Profile:
        options = StackOptions(
            data_folder=self._options.data_folder,
            api_port=0,
            # Whatever variables a shell has set for other programs.
            is_self_contained=True,
            is_for_others=False,
        )
        began = time.monotonic()
        if not self._starts:
            later = "" if options.data_folder.exists() else ", and start faster the next time"
            self._display.say(
                "Starting a control plane for this run: Postgres, Temporal, API and Temporal "
                f"worker. They keep their data in {options.data_folder}{later} ..."
            )
        self._starts = True
        self._display.status("Starting ...")
        self._stack = await exits.enter_async_context(running_stack(options))
        self._display.say(f"... started in {time.monotonic() - began:.1f} s")
        return Profile(url=self._stack.api_url, key=self._stack.api_key.get_secret_value())

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
        """Wait until that call is over; without a stack nobody would end its worker."""
        self._display.status(f"Waiting for the end of {path.invocation_id} ...")
        # Its worker finds no API any more, and is killed after its time to clean up.
        with suppress(ControlPlaneError):
            await Connection(client).async_client.wait_for_invocation(path, _LEFT_SECONDS)

    async def _deploy(self, client: Client) -> Deployment:
        target = self._options.target
        loop = asyncio.get_running_loop()

        def report(stage: Stage, text: str) -> None:
            if self.stop.is_set():
                raise _StoppedError
            line = {
                "find": f"Looking for functions in {target.file.name} ...",
                "bundle": f"Reading {folder} ...",
                "upload": f"Uploading: {text}",
                "register": "Registering a version ...",
                "prepare": f"Preparing: {text}",
            }[stage]
            # Of these only what is in the way of the preparation matters: `trouble` in `deploy`.
            show = partial(self._display.status, line, matters=stage == "prepare" and ";" in text)
            loop.call_soon_threadsafe(show)

        with tempfile.TemporaryDirectory(prefix="control-plane-run-") as temporary:
            folder, text = target.folder, ""
            if target.folder_is_no_project:
                folder = Path(temporary)
                shutil.copy2(target.file, folder)
                text = f" alone, since {target.folder} is no folder of one project"
            size = await asyncio.to_thread(survey, folder, files=_MOST_FILES, size=_MOST_BYTES)
            if not size.is_complete:
                raise StandaloneError(
                    f"{target.folder} has more than {size.files - 1:,} files or "
                    f"{size_text(_MOST_BYTES)}. Put {target.file.name} into a folder of its own, "
                    "or name what does not belong to it in .gitignore or .controlplaneignore"
                )
            self._display.say(
                f"Deploying {target.file if text else target.folder}{text} "
                f"({size.files:,} file{'s' * (size.files != 1)}, {size_text(size.size)}) "
                f"as project {self._options.project}"
            )
            try:
                deployed = await _in_thread(
                    lambda: deploy(
                        client,
                        folder,
                        project=self._options.project,
                        modules=[target.module],
                        report=report,
                    )
                )
            except BadRequestError as error:
                if error.status != 413:
                    raise
                raise StandaloneError(
                    f"{error.detail}. The largest: "
                    + ", ".join(f"{name} ({size_text(each)})" for name, each in size.largest)
                    + ". Name what does not belong to it in .gitignore or .controlplaneignore"
                ) from None
        _check(deployed, target)
        return deployed

    async def _call(self, client: Client, deployed: Deployment) -> Ended:
        target = self._options.target
        self.calls = True
        connection = Connection(client)
        info = await connection.async_client.create_invocation(
            deployed.project,
            target.function_name,
            version=deployed.version_id,
            input_text=self._options.input_text,
        )
        left = None if self._stack is None else self._stack.data_folder / _LEFT_CALL
        if left is not None:
            left.write_text(json.dumps(vars(info.path)))
        self._display.say(f"Called {target.name}: {info.invocation_id}")
        ended = await follow(
            Invocation(info.path, connection=connection),
            self._display,
            stop=self.stop,
            timeout=self._options.timeout,
            stack=self._stack,
        )
        if left is not None:
            left.unlink()
        return ended


def _folder_of_up() -> Path:
    given = os.environ.get("CONTROL_PLANE_DATA_FOLDER")
    return Path(given) if given else default_data_folder()


def _key_of(folder: Path) -> str:
    given = os.environ.get("CONTROL_PLANE_API_KEY")
    try:
        return (folder / "api-key").read_text().strip()
    except OSError as error:
        # Its key came from the environment, and so may ours.
        if given:
            return given
        raise StandaloneError(
            f"The API key of the control plane that runs cannot be read: {error}"
        ) from None


def _check(deployed: Deployment, target: Target) -> None:
    """See that the function is there and ready.

    Raises:
        StandaloneError: it is not.
    """
    states = {function.name: function for function in deployed.functions}
    state = states.get(target.function_name)
    if state is None:
        raise StandaloneError(
            f"{target.function_name} is not among the functions of {target.folder}: "
            f"{', '.join(sorted(states))}"
        )
    if state.status != "READY":
        raise StandaloneError(
            f"{target.name} cannot be prepared: {state.error}"
            if state.status == "FAILED"
            else f"{target.name} is not ready yet: {state.error or 'it takes too long'}"
        )


async def _in_thread(work: Callable[[], T]) -> T:
    """Do something that blocks; who stops waiting for it does not wait for its end, either."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # there is one without an error

    def program() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - handed over
            failure = error
        # The loop may be closed by then.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=program, name="control-plane-run", daemon=True).start()
    return await done

"""The server of a `control-plane run`: one that answers already, or a stack started for the run."""

import asyncio
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from control_plane._http.async_client import AsyncClient
from control_plane._http.profiles import (
    PROFILE_VARIABLE,
    URL_VARIABLE,
    Profile,
    find_server,
    load_profiles,
)
from control_plane.errors import ServerConnectionError

from standalone.data_folder import default_data_folder
from standalone.errors import DataFolderIsInUseError, StandaloneError
from standalone.options import StackOptions
from standalone.run.display import Display
from standalone.running_server import running_server
from standalone.stack import Stack, running_stack

_WAIT_SECONDS: Final = 60.0
"""How long to wait for a data folder that something else than another run uses."""
_PAUSE_SECONDS: Final = 0.5


def run_data_folder() -> Path:
    """Choose the folder of the stack that runs start; not that of `up`.

    The API's port is another one each time, so workers of `up` that go on without it would not
    find it here, nor those of a run there.
    """
    usual = default_data_folder()
    return usual.with_name(f"{usual.name}-run")


class ServerOfRun:
    """Finds the server of one run.

    Args:
        display: where to say what is being done.
        data_folder: of the stack that is started if no server answers.
        url: the server that the caller names, if any.
        key: its API key.
        profile: the name of a server that `control-plane login` knows.
        temporal_open: see `StackOptions`.
    """

    def __init__(
        self,
        display: Display,
        *,
        data_folder: Path,
        url: str | None,
        key: str | None,
        profile: str | None,
        temporal_open: bool,
    ) -> None:
        self.stack: Stack | None = None
        """The stack that was started for the run, if one was."""
        self._display = display
        self._data_folder = data_folder
        self._url = url
        self._key = key
        self._profile = profile
        self._temporal_open = temporal_open
        self._starts = False

    async def find_or_start(self, exits: AsyncExitStack) -> Profile:
        """Give the address and the key of a server that answers.

        Args:
            exits: ends the one that was started for this.

        Raises:
            ControlPlaneError: the one that was asked for does not answer.
            StandaloneError: none can be started.
        """
        found = await self._configured()
        if found is not None:
            self._display.say(f"Using {found.url}")
            return found
        told, until = False, time.monotonic() + _WAIT_SECONDS
        while True:
            for folder in (_folder_of_up(), self._data_folder):
                url = running_server(folder)
                if url is not None:
                    self._display.say(f"Using {url}, which runs with its data in {folder}")
                    return Profile(url=url, key=_key_of(folder))
            try:
                return await self._start(exits)
            except DataFolderIsInUseError as error:
                if "control-plane run" not in str(error) and time.monotonic() > until:
                    raise
                if not told:
                    self._display.say(
                        f"{str(error).partition('. ')[0]}. Waiting until it is free ... "
                        "(`control-plane up` in another terminal serves many runs at once)"
                    )
                    told = True
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _configured(self) -> Profile | None:
        asked_for = self._url or self._profile
        named = asked_for or os.environ.get(URL_VARIABLE) or os.environ.get(PROFILE_VARIABLE)
        if not named and load_profiles().choose() is None:
            return None
        server = find_server(self._url, self._key, profile=self._profile)
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
            data_folder=self._data_folder,
            api_port=0,
            # Whatever variables a shell has set for other programs.
            is_self_contained=True,
            temporal_open=self._temporal_open,
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
        self.stack = await exits.enter_async_context(running_stack(options))
        self._display.say(f"... started in {time.monotonic() - began:.1f} s")
        return Profile(url=self.stack.api_url, key=self.stack.api_key.get_secret_value())


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

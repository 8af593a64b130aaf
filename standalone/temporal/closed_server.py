"""A Temporal that only the owner of its data folder can reach."""

import base64
import os
import secrets
import signal
import socket
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final, Unpack

import httpx
from pydantic import SecretStr

from core.temporal.client import SOCKET_SCHEME, SOCKET_USER, EmbeddedTemporalSettings
from standalone.errors import NoNetworkOfItsOwnError
from standalone.servers.child import Child
from standalone.servers.ownership import FolderLock
from standalone.servers.socket_folder import SocketFolder
from standalone.temporal import relay_main
from standalone.temporal.dev_server import Ports, ServerOptions, TemporalDevServer
from standalone.temporal.process_file import ProcessFile

_SOCKET_NAME: Final = "temporal.sock"
_BACKLOG: Final = 128
_UI_SECONDS: Final = 60.0
"""How long the web UI may take for an answer."""
_PORTS: Final = Ports(
    front_end=relay_main.FRONT_END_PORT, ui=relay_main.UI_PORT, metrics=7235, http=7236
)


class ClosedTemporal(TemporalDevServer):
    """A Temporal development server in a network of its own, behind one Unix socket.

    Who wants to connect must be able to enter the socket's folder (mode 0700), and know a secret of
    this start, which stands nowhere but in the memory of this process and of the relay. The former
    keeps other accounts out, the latter functions that run as the same user.

    Args:
        data_folder: See `TemporalDevServer`.
        **options: See `TemporalDevServer`.
    """

    def __init__(self, data_folder: Path, **options: Unpack[ServerOptions]) -> None:
        super().__init__(data_folder, **options)
        self._sockets = SocketFolder(self.data_folder, socket_name=_SOCKET_NAME, server=self.name)
        self._socket: Path | None = None
        self._secret = ""
        self._process_file = ProcessFile(self.data_folder)
        self._pid: int | None = None

    @property
    def pid(self) -> int | None:
        """The process id of Temporal itself, not of the relay; None if it does not run."""
        return None if super().pid is None else self._pid

    @property
    def settings(self) -> EmbeddedTemporalSettings:
        """What a client needs to connect. Known after `start`.

        Raises:
            RuntimeError: it was not started.
        """
        if self._socket is None:
            raise RuntimeError("Temporal was not started")
        return EmbeddedTemporalSettings(
            temporal_address=f"{SOCKET_SCHEME}{self._socket}",
            temporal_namespace=self.namespace,
            temporal_ui_url=None,
            temporal_secret=SecretStr(self._secret),
        )

    def ui_client(self) -> httpx.AsyncClient:
        """Give a client for the web UI; the caller closes it."""
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(self._socket)),
            base_url="http://temporal",
            headers={"proxy-authorization": self._credential()},
            timeout=_UI_SECONDS,
        )

    def stop(self) -> None:
        """Stop the server: SIGTERM, then by force. Idempotent."""
        if self._lock is not None:
            self._process_file.remove()
        super().stop()

    def _credential(self) -> str:
        both = f"{SOCKET_USER}:{self._secret}".encode()
        return f"Basic {base64.b64encode(both).decode()}"

    def _launch(self, binary: Path, lock: FolderLock) -> None:
        self._begin_log()
        # No note of an earlier start may lead to a process that has got its number.
        self._process_file.remove()
        self._socket = self._sockets.make(None) / _SOCKET_NAME
        self._secret = secrets.token_urlsafe(32)
        with ExitStack() as ours:
            door = ours.enter_context(closing(_listen(self._socket)))
            credential, answer = os.pipe(), os.pipe()
            for number in (credential[0], answer[0]):
                ours.callback(os.close, number)
            with os.fdopen(credential[1], "wb") as pipe:
                # By a pipe: arguments and environments of processes can be read.
                pipe.write(self._credential().encode())
            try:
                self._child = child = Child.start(
                    [
                        *(sys.executable, "-I", "-S", relay_main.__file__),
                        *map(str, (door.fileno(), credential[0], answer[1])),
                        *self._command(binary, _PORTS),
                    ],
                    log=self.log,
                    death_signal=signal.SIGKILL,
                    # The lock goes to Temporal too: it is free when nothing touches the data.
                    keep_open=[lock.fileno(), door.fileno(), credential[0], answer[1]],
                )
            finally:
                os.close(answer[1])
            self._pid = self._read_answer(child, answer[0])
        self._process_file.write(self._pid)
        self._wait_until_it_answers(child)

    def _read_answer(self, child: Child, pipe: int) -> int:
        """Give the process id of Temporal.

        Raises:
            NoNetworkOfItsOwnError: this machine gives none.
            ServerFailedError: the relay failed in another way.
        """
        word, _, text = os.read(pipe, 1000).decode().partition(" ")
        if word == "started":
            return int(text)
        code = child.wait()
        if word == "refused":
            raise NoNetworkOfItsOwnError(text)
        raise self._failed(f"cannot be started: its relay exited with {code}")


def _listen(path: Path) -> socket.socket:
    door = socket.socket(socket.AF_UNIX)
    door.bind(str(path))
    path.chmod(0o600)
    door.listen(_BACKLOG)
    return door

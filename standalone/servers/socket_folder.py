"""Where a server's Unix socket lives: its path must be short, a data folder's need not be."""

import os
import re
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from standalone.errors import StandaloneError
from standalone.servers.unprivileged import User, give, reachable_by

_PATH_LIMIT = 107
"""Bytes of a Unix socket's path on Linux, without the final zero."""


class SocketFolder:
    """A folder for one server's socket: in the data folder if that is short enough, else temporary.

    The caller holds the data folder's lock, and no server of that folder runs during the calls.

    Args:
        data_folder: of the server.
        socket_name: of the file; the server may make others whose names begin with it.
        server: whose socket it is, for messages.
    """

    def __init__(self, data_folder: Path, *, socket_name: str, server: str) -> None:
        self._data_folder = data_folder
        self._socket_name = socket_name
        self._server = server
        self._beside = data_folder / "socket"
        # Says where a temporary one is, for the next start if this process is killed.
        self._note = data_folder / "socket-folder"

    def make(self, user: User | None) -> Path:
        """Make the folder (mode 0700, owned by `user`) and give its path.

        Raises:
            StandaloneError: there is no place that is short enough and that the user can reach.
        """
        self.remove()
        if self._fits(self._beside):
            self._beside.mkdir(mode=0o700, exist_ok=True)
            give(self._beside, user)
            self._remove_sockets(self._beside)
            return self._beside
        for parent in dict.fromkeys((Path(tempfile.gettempdir()), Path("/tmp"))):  # noqa: S108
            folder = parent.resolve() / f"control-plane-{secrets.token_hex(8)}"
            if not self._fits(folder):
                continue
            if user is not None and reachable_by(user, folder) is not None:
                continue
            # Noted down first: whatever happens then, the next start finds and removes it.
            self._note.write_text(str(folder), encoding="utf-8")
            with suppress(OSError):
                folder.mkdir(mode=0o700)
                give(folder, user)
                return folder
        raise StandaloneError(
            f"There is no folder for the socket of {self._server}: {self._beside} is too long a "
            "path, and neither TMPDIR nor /tmp will do"
        )

    def remove(self) -> None:
        """Remove the temporary folder, whether it is ours or that of a killed predecessor."""
        try:
            folder = Path(self._note.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        with suppress(OSError):
            # The note may be old, and the name another user's by now.
            status = folder.lstat()
            owners = {os.geteuid(), self._data_folder.stat().st_uid}
            if stat.S_ISDIR(status.st_mode) and status.st_uid in owners:
                self._remove_sockets(folder)
                folder.rmdir()
        self._note.unlink()

    def _fits(self, folder: Path) -> bool:
        path = str(folder / self._socket_name)
        # Postgres and libpq read a list there: commas part it, quotes and @ mean something.
        return len(os.fsencode(path)) <= _PATH_LIMIT and not re.search(r'[,"@]', path)

    def _remove_sockets(self, folder: Path) -> None:
        for entry in folder.glob(f"{self._socket_name}*"):
            entry.unlink()

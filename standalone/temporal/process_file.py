"""Says which process the embedded Temporal of a data folder is, to commands of the same user."""

import json
import os
from contextlib import suppress
from pathlib import Path

from standalone.servers.ownership import start_time

_NAME = "temporal.process"


class ProcessFile:
    """A file in Temporal's data folder, there while the server runs.

    Args:
        data_folder: of Temporal.
    """

    def __init__(self, data_folder: Path) -> None:
        self._path = data_folder / _NAME

    def write(self, pid: int) -> None:
        """Note down the process."""
        new = self._path.with_name(f"{_NAME}.new")
        with suppress(FileNotFoundError):
            new.unlink()
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "w", encoding="ascii") as stream:
            json.dump({"pid": pid, "started": start_time(pid)}, stream)
        new.replace(self._path)

    def read(self) -> int | None:
        """Give the process id; None if no server runs."""
        try:
            noted = json.loads(self._path.read_text(encoding="ascii"))
            pid, started = int(noted["pid"]), noted["started"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        # The file of a server that was killed stays, and its number may be another's by now.
        return pid if started is not None and start_time(pid) == started else None

    def remove(self) -> None:
        """Forget it."""
        self._path.unlink(missing_ok=True)

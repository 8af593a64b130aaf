"""One owner per data folder."""

import fcntl
import json
import os
import sys
import time
from pathlib import Path
from typing import Self

from standalone.errors import DataFolderError, DataFolderIsInUseError
from standalone.servers.child import wait_until

_OWNER_TIMEOUT = 0.5
"""An owner that has just been killed needs a moment to be gone."""

_LEFTOVER_TIMEOUT = 10.0


class FolderLock:
    """A `flock` on a file, held by the owner *and* by the servers that inherit `fileno`.

    The kernel frees it when the last of them is gone. After a kill -9 of the owner the lock thus
    says whether anything of its server still touches the data, be it a single backend process.
    """

    def __init__(self, file: int) -> None:
        self._file = file

    @classmethod
    def acquire(cls, path: Path) -> Self:
        """Become the owner, after waiting up to 10 s for the servers of an owner that is dead.

        Raises:
            DataFolderIsInUseError: the owner lives, or its servers do not end.
            DataFolderError: the file cannot be opened.
        """
        try:
            # No link is followed: the folder may belong to a user who is trusted less than we are.
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataFolderError(f"Cannot open {path}: {error.strerror}") from error
        holder: _Holder | None = None
        owner_may_end_until = time.monotonic() + _OWNER_TIMEOUT

        def settled() -> bool:
            nonlocal holder
            if _try_lock(file):
                holder = None
                return True
            holder = _Holder.read(file)
            return (
                holder is not None and time.monotonic() > owner_may_end_until and holder.is_alive()
            )

        settled_in_time = wait_until(settled, timeout=_LEFTOVER_TIMEOUT, pause=0.02)
        if settled_in_time and holder is None:
            _Holder.write(file)
            return cls(file)
        os.close(file)
        if holder is not None and holder.is_alive():
            raise DataFolderIsInUseError(
                f"The data folder {path.parent} is in use by process {holder.pid} "
                f"({holder.command}). Stop it, or choose another folder"
            )
        raise DataFolderIsInUseError(
            f"A server that an earlier process has left behind still uses the data folder "
            f"{path.parent}. `fuser -v {path}` names it"
        )

    def fileno(self) -> int:
        """Give the descriptor that a server must inherit."""
        return self._file

    def release(self) -> None:
        """Give up the ownership; servers that have inherited it keep the lock."""
        # From here on our name would mislead: the next owner is to wait for those servers.
        os.ftruncate(self._file, 0)
        os.close(self._file)


class _Holder:
    """What the lock file says about its owner. Its start time tells it from a later process."""

    def __init__(self, *, pid: int, started: str, command: str) -> None:
        self.pid = pid
        self.started = started
        self.command = command

    @classmethod
    def read(cls, file: int) -> Self | None:
        try:
            return cls(**json.loads(os.pread(file, 4096, 0)))
        except (ValueError, TypeError):
            # The new owner is about to write.
            return None

    @classmethod
    def write(cls, file: int) -> None:
        pid = os.getpid()
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])[:200]
        os.ftruncate(file, 0)
        record = {"pid": pid, "started": start_time(pid), "command": command}
        os.pwrite(file, json.dumps(record).encode(), 0)

    def is_alive(self) -> bool:
        return start_time(self.pid) == self.started


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def start_time(pid: int) -> str | None:
    """Give the start of a process in clock ticks since boot; None if it is gone or a zombie.

    Number and start time together name a process; the number alone is used again.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may hold spaces and parentheses itself.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]

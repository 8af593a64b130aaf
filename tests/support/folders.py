"""Folders for the servers that tests start."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MEMORY = Path("/dev/shm")  # noqa: S108 # only for a folder of our own in it
_NEEDED = 2 * 1024**3
_PREFIX = "cp-tests-"


@contextmanager
def server_folder(prefix: str) -> Iterator[Path]:
    """A folder that other users may enter, in memory if possible; deleted at the end.

    If root starts Postgres, it runs as another user, and pytest's own folders are closed to that.
    Postgres writes hundreds of files for each database, which takes long on a disk.
    """
    parent = _memory() or Path(tempfile.gettempdir())
    _delete_abandoned(parent)
    made = Path(tempfile.mkdtemp(prefix=".cp-", dir=parent))
    lock = os.open(made, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Only now others may take it for abandoned.
        folder = made.rename(made.with_name(f"{_PREFIX}{prefix}-{made.name[4:]}"))
        open_to_all(folder)
        yield folder
        shutil.rmtree(folder)
    finally:
        os.close(lock)


def open_to_all(folder: Path) -> Path:
    """Let functions write to a folder of pytest's: root runs them as users of their own."""
    folder.chmod(0o1777)
    for parent in folder.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(0o711)
    return folder


def _delete_abandoned(parent: Path) -> None:
    """Delete what a run that was killed has left: memory, perhaps."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def _memory() -> Path | None:
    """Give a file system in memory with room, or None.

    Containers often have a small one, or one that no program runs from, as the copy of Postgres in
    its data folder does.
    """
    try:
        found = os.statvfs(_MEMORY)
    except OSError:
        return None
    room = found.f_bavail * found.f_frsize
    return _MEMORY if room >= _NEEDED and not found.f_flag & os.ST_NOEXEC else None

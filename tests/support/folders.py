"""Folders for the servers that tests start."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MEMORY = Path("/dev/shm")  # noqa: S108 # only for a folder of our own in it
_NEEDED = 2 * 1024**3


@contextmanager
def server_folder(prefix: str) -> Iterator[Path]:
    """A folder that other users may enter, in memory if possible; deleted at the end.

    If root starts Postgres, it runs as another user, and pytest's own folders are closed to that.
    Postgres writes hundreds of files for each database, which takes long on a disk.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"control-plane-{prefix}-", dir=_memory()))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


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

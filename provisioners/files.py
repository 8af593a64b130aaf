"""Folders that hold what programs of others have made."""

import errno
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path


def delete_tree(folder: Path) -> None:
    """Delete a folder that holds whatever a program made of it."""
    for path, _, _ in os.walk(folder):
        # Programs make read-only folders (package caches do), which would keep their content.
        with suppress(OSError):
            Path(path).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def read_regular_file(path: Path, *, limit: int) -> bytes:
    """Read a file that a program may have put something else in the place of.

    Raises:
        OSError: it cannot be opened, is a link, a FIFO or the like, or has more bytes than `limit`.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise OSError(errno.EINVAL, "not a regular file of a fitting size", str(path))
        return os.read(descriptor, limit)
    finally:
        os.close(descriptor)

"""Tells other programs of the same user which server runs on a data folder."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME = "server"


@contextmanager
def announced(folder: Path, *, url: str) -> Iterator[None]:
    """Say during the block that the API of this data folder answers at `url`.

    The lock on the file says whether that is still so: the kernel frees it with its process.
    """
    # Not inherited: a server or a worker that outlives this process must not keep the lock.
    file = os.open(
        folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode=0o600
    )
    try:
        if _locked(file):
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps({"url": url}).encode(), 0)
        yield
    finally:
        os.close(file)


def _locked(file: int) -> bool:
    # A reader has it for an instant. Another server has it for good, where both have a Postgres
    # elsewhere: the first one's announcement stays.
    for _ in range(20):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.05)
    return False


def running_server(folder: Path) -> str | None:
    """Give the address of the API that runs on this data folder; None if none does."""
    try:
        file = os.open(folder / _NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            return str(json.loads(os.pread(file, 4096, 0))["url"])
        except (ValueError, KeyError, TypeError):
            # It is about to be written.
            return None
    finally:
        os.close(file)
    return None

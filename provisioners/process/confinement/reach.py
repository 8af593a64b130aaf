"""What of the file system a worker's user can reach, and what must be shown to it besides.

An interpreter below /root, or a data folder in a closed home, cannot be reached by another user.
The worker then gets a view of its own (`programs.confine.take_view`): the closed folder is empty in
it, but for what the worker needs.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from provisioners.process.confinement.users import WorkerUser


def words_for(user: WorkerUser, needed: Iterable[Path]) -> list[str]:
    """Give the words of `programs.confine.Confinement` that make a user reach what it needs.

    Args:
        user: whose processes need it.
        needed: files and folders; what does not exist is left out.
    """
    covers: list[str] = []
    shows: list[str] = []
    for path in sorted({Path(os.path.realpath(path)) for path in needed}):
        if not path.exists():
            continue
        if any(path.is_relative_to(shown) for shown in shows):
            continue
        closed = _closed_above(path, user)
        if closed is None:
            continue
        if str(closed) not in covers:
            covers.append(str(closed))
        shows.append(str(path))
    return [*(f"-{cover}" for cover in covers), *(f"+{path}" for path in shows)]


def open_entries(user: WorkerUser, path: str) -> list[str]:
    """Give the folders of a PATH that a user can reach without a view of its own."""
    return [
        entry
        for entry in path.split(os.pathsep)
        if entry and _closed_above(Path(os.path.realpath(entry)), user) is None
    ]


def _closed_above(path: Path, user: WorkerUser) -> Path | None:
    """Name the first folder above a path that the user cannot pass through."""
    for folder in reversed(path.parents):
        try:
            found = folder.stat()
        except OSError:
            return None
        if not _may_pass(found, user):
            return folder
    return None


def _may_pass(found: os.stat_result, user: WorkerUser) -> bool:
    if found.st_uid == user.uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid == user.gid:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)

"""The user that a program runs as when root started us."""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from standalone.errors import StandaloneError


@dataclass(frozen=True, kw_only=True)
class User:
    """A user of this machine."""

    uid: int
    gids: tuple[int, ...]
    """All groups, the primary one first."""
    name: str

    @classmethod
    def by_uid(cls, uid: int) -> Self:
        """Look a user up; one without an entry has the group of the same number and no other."""
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return cls(uid=uid, gids=(uid,), name=str(uid))
        return cls._of(entry)

    @classmethod
    def _of(cls, entry: pwd.struct_passwd) -> Self:
        others = set(os.getgrouplist(entry.pw_name, entry.pw_gid)) - {entry.pw_gid}
        return cls(uid=entry.pw_uid, gids=(entry.pw_gid, *sorted(others)), name=entry.pw_name)

    @classmethod
    def unprivileged(cls) -> Self:
        """Find the user for programs that refuse root: `postgres` if there is one, else `nobody`.

        Raises:
            StandaloneError: this machine has neither.
        """
        for name in ("postgres", "nobody"):
            try:
                return cls._of(pwd.getpwnam(name))
            except KeyError:
                continue
        raise StandaloneError(
            "Postgres does not run as root, and this machine has neither a user `postgres` nor "
            "`nobody`. Start control-plane as an ordinary user"
        )


def reachable_by(user: User, path: Path) -> Path | None:
    """Give the first parent folder of `path` that the user cannot enter, None if there is none.

    Goes by owner, group and mode of the folders on the real path (links resolved). The path itself
    need not exist and is not checked. Access lists are not read: where they matter, the program
    itself will say so.
    """
    for folder in reversed(path.resolve().parents):
        try:
            status = folder.stat()
        except FileNotFoundError:
            # The program that makes it decides about its mode.
            return None
        except PermissionError:
            return folder
        if user.uid == 0:
            continue
        if status.st_uid == user.uid:
            needed = stat.S_IXUSR
        elif status.st_gid in user.gids:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not status.st_mode & needed:
            return folder
    return None


def give(path: Path, user: User | None) -> None:
    """Make `user` the owner of a file or folder of ours; None leaves it as it is."""
    if user is not None:
        os.chown(path, user.uid, user.gids[0], follow_symlinks=False)

"""What keeps the workers of a project to what is theirs, as far as this machine allows it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from provisioners.process.confinement.reach import open_entries, words_for
from provisioners.process.confinement.users import WorkerUser, WorkerUsers

_NO_USER = ["0", "0"]
"""The words of a program that stays the server's user, without a limit of processes."""


@dataclass(frozen=True, kw_only=True)
class Confiner:
    """Knows which user each project's workers are.

    Attributes:
        users: hands out the users; None where workers are the server's own user.
        deployment: whose projects these are.
    """

    users: WorkerUsers | None
    deployment: str
    _known: dict[str, WorkerUser] = field(default_factory=dict)

    def user_of(self, project_name: str) -> WorkerUser | None:
        """Give the user of a project's workers; None: the server's own.

        Raises:
            UnrecoverableProvisioningError: no user is left.
        """
        if self.users is None:
            return None
        known = self._known.get(project_name)
        if known is None:
            known = self._known[project_name] = self.users.of(f"{self.deployment}/{project_name}")
        return known

    def give_code(self, project_name: str, folder: Path) -> None:
        """Let a project's workers, and no other project's, read what is in a folder.

        Raises:
            OSError: its owner cannot be changed.
        """
        user = self.user_of(project_name)
        if user is None:
            return
        os.chown(folder, 0, user.gid, follow_symlinks=False)
        folder.chmod(0o750)

    def path_for(self, project_name: str, path: str, *, shown: Iterable[Path]) -> str:
        """Give the PATH of a project's workers.

        Args:
            project_name: whose workers they are.
            path: the PATH of which they get what they can reach.
            shown: folders of it that they can reach all the same.
        """
        user = self.user_of(project_name)
        if user is None:
            return path
        last = [str(folder) for folder in shown if folder.is_dir()]
        first = [folder for folder in last if folder in path.split(os.pathsep)]
        return os.pathsep.join(dict.fromkeys([*first, *open_entries(user, path), *last]))

    def words_for(self, project_name: str, needed: Iterable[Path]) -> list[str]:
        """Give the words of `programs.confine.Confinement` for a project.

        Args:
            project_name: whose worker it is.
            needed: what it must be able to reach.
        """
        user = self.user_of(project_name)
        if user is None:
            return _NO_USER
        return [str(user.uid), str(_most_processes()), *words_for(user, needed)]


def _most_processes() -> int:
    """Give the processes and threads that one user may have: half of what the machine can have."""
    limits = [
        int(Path(f"/proc/sys/kernel/{name}").read_text()) for name in ("pid_max", "threads-max")
    ]
    return max(1, min(limits) // 2)

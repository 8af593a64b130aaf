"""What a worker may write to: its scratch folder, apart from what the provisioner trusts.

w/<12 characters>/   work/   the program's current folder
                     home/   its HOME
                     tmp/    its TMPDIR
"""

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from provisioners.process.confinement.users import WorkerUser

LONGEST_TEMPORARY = 60
"""Characters of TMPDIR. A Unix socket's path has at most 107 (man 7 unix), and programs put
sockets below TMPDIR: multiprocessing's names take 32 characters."""
_TRIES = 16


@dataclass(frozen=True)
class Scratch:
    """The scratch folder of one worker, or of a warm parent."""

    path: Path
    short: Path
    """The same folder, perhaps through a link, so that TMPDIR is short."""

    @property
    def work(self) -> Path:
        """The program's current folder."""
        return self.path / "work"

    @property
    def home(self) -> Path:
        """The program's HOME."""
        return self.path / "home"

    @property
    def temporary(self) -> Path:
        """The program's TMPDIR."""
        return self.short / "tmp"

    def create(self, user: WorkerUser | None) -> None:
        """Make the folder and give it to its user; fine if it is there.

        Args:
            user: whose it is; None: this process's.

        Raises:
            OSError: it cannot be made.
        """
        for folder in (self.path, self.work, self.home, self.path / "tmp"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if user is None:
            return
        # From the inside out: what belongs to the user already is not touched again.
        for folder in (self.work, self.home, self.path / "tmp", self.path):
            if self.path.stat(follow_symlinks=False).st_uid != user.uid:
                os.chown(folder, user.uid, user.gid, follow_symlinks=False)

    def marks(self) -> tuple[str, ...]:
        """Give entries of the environment by which the processes of this worker are found."""
        return (f"HOME={self.home}", f"TMPDIR={self.temporary}")


@dataclass(frozen=True)
class Scratches:
    """The scratch folders of one state folder."""

    folder: Path

    def get_ready(self) -> None:
        """Make the folder that holds them: workers may pass through it, and not look around."""
        self.folder.mkdir(exist_ok=True)
        self.folder.chmod(0o711)

    def of(self, name: str) -> Scratch:
        """Give a scratch folder, which may not exist.

        Args:
            name: ends in 12 random characters.
        """
        last = name[-12:]
        return Scratch(self.folder / last, _short(self.folder) / last)


def _short(folder: Path) -> Path:
    """Give a short path of the folder: its own, or a link to it among the temporary files."""
    room = LONGEST_TEMPORARY - len("/123456789012/tmp")
    if len(str(folder)) <= room:
        return folder
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
    for number in range(_TRIES):
        # Named by the user: others may have taken a name, and a link of theirs is not followed.
        suffix = f"-{number}" if number else ""
        link = Path(tempfile.gettempdir()) / f"cp-{os.geteuid()}-{name}{suffix}"
        if len(str(link)) > room:
            break
        try:
            link.symlink_to(folder)
        except FileExistsError:
            if not _is_our_link(link, folder):
                continue
        except OSError:
            break
        return link
    return folder


def _is_our_link(link: Path, target: Path) -> bool:
    try:
        found = link.lstat()
        return (
            stat.S_ISLNK(found.st_mode)
            and found.st_uid == os.geteuid()
            and link.readlink() == target
        )
    except OSError:
        return False

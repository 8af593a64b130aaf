"""The folder with all code of one project, apart from that of the others.

| path | what it is |
|---|---|
| `<key>/bundles/<digest>/` | an unpacked code bundle (`folders.py`) |
| `<key>/environments/<key>/` | a virtual environment (`environments.py`) |
| `<key>/uv-cache/` | what installers have downloaded for this project |

The key is made of the project's name. A project that is deleted and made again finds what is left.
Nothing is shared between projects, so that none can change, or read, what another one runs.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_KEY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class ProjectCode:
    """Where the code of one project is."""

    folder: Path
    project_name: str = field(default="", compare=False)
    """Only known of a project that is asked for by its name."""

    @classmethod
    def of(cls, code: Path, project_name: str) -> "ProjectCode":
        """Give that of a project, which may not exist.

        Args:
            code: holds the code of all projects.
            project_name: as users know it.
        """
        key = hashlib.sha256(project_name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return cls(code / key, project_name)

    @classmethod
    def all_in(cls, code: Path) -> "list[ProjectCode]":
        """Give those of all projects that have one."""
        return [cls(entry) for entry in code.iterdir() if _KEY.fullmatch(entry.name)]

    @property
    def bundles(self) -> Path:
        """Holds the unpacked bundles."""
        return self.folder / "bundles"

    @property
    def environments(self) -> Path:
        """Holds the virtual environments, and their locks."""
        return self.folder / "environments"

    @property
    def cache(self) -> Path:
        """Holds what installers have downloaded."""
        return self.folder / "uv-cache"

    def make(self) -> None:
        """Make the folders, unless they are there. This is the one place where they are made."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.cache.mkdir(mode=0o700, exist_ok=True)
        for folder in (self.bundles, self.environments):
            # Who may enter the folder above may read them.
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)

    def entries(self) -> Iterator[Path]:
        """Give each bundle and environment, what is half-made among them."""
        for folder in (self.bundles, self.environments):
            with suppress(FileNotFoundError):
                # A build may be waiting for a lock.
                yield from (entry for entry in folder.iterdir() if entry.suffix != ".lock")

    def emptied_at(self) -> float | None:
        """Say since when there is nothing in it, in epoch seconds; None if there is something."""
        if any(True for _ in self.entries()):
            return None
        times = [0.0]
        for folder in (self.bundles, self.environments):
            with suppress(FileNotFoundError):
                times.append(folder.stat().st_mtime)
        return max(times)

"""Projects in folders of this machine, `file:///absolute/folder`, which may change at any time."""

import asyncio
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from provisioners.base import UnrecoverableProvisioningError
from provisioners.code.confined import FactsReader
from provisioners.code.facts import ProjectFacts
from provisioners.code.project import PROJECT_FILE, Project, folder_error, folder_of, project_of

_MOST = 1000
"""So many folders are remembered."""

_State = tuple[int, ...] | None
"""What changes with a file; None: there is none."""


@dataclass(frozen=True, kw_only=True)
class _Known:
    state: _State
    facts: ProjectFacts


class LocalFolders:
    """Reads folders of this machine, and remembers each until its control-plane.toml changes.

    Args:
        reader: reads the files.
        closed: a folder that no project is in: the provisioner's own, with the code of all.
    """

    def __init__(self, reader: FactsReader, *, closed: Path) -> None:
        self._reader = reader
        self._closed = closed
        self._known: OrderedDict[Path, _Known] = OrderedDict()

    async def open(self, docker_image: str) -> Project:
        """Check a folder.

        Raises:
            UnrecoverableProvisioningError: no program can be found there; the text says why.
            ProvisionerError: it may work later.
        """
        folder = folder_of(docker_image)
        if await asyncio.to_thread(_is_in, folder, self._closed):
            message = f"The folder {folder} is the control plane's own"
            raise UnrecoverableProvisioningError(message)
        return project_of(await self._facts(folder), folder, environment_folder=folder / ".venv")

    async def _facts(self, folder: Path) -> ProjectFacts:
        try:
            # Before it is read: a change meanwhile is then noticed at the next call.
            state = await asyncio.to_thread(_state_of, folder)
            known = self._known.get(folder)
            if known is not None and known.state == state:
                self._known.move_to_end(folder)
                return known.facts
            facts = await self._reader.read(folder, dependencies=False)
        except OSError as error:
            raise folder_error(folder, error) from None
        # That there is no code does not show in that file.
        if facts.problem is not None or facts.is_python:
            self._known[folder] = _Known(state=state, facts=facts)
            if len(self._known) > _MOST:
                self._known.popitem(last=False)
        return facts


def _is_in(folder: Path, other: Path) -> bool:
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(other))


def _state_of(folder: Path) -> _State:
    """Look at the project file in a folder, without opening it."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.stat(PROJECT_FILE, dir_fd=opened, follow_symlinks=False)
    except FileNotFoundError:
        return None
    finally:
        os.close(opened)
    # Nobody can set back the time of the last change to a file's own record, st_ctime.
    return (
        status.st_dev,
        status.st_ino,
        status.st_mode,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )

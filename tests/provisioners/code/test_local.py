"""Folders of this machine: each state of their project file is read once."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from provisioners.base import UnrecoverableProvisioningError
from provisioners.code.confined import FactsReader
from provisioners.code.confined_program import MAX_FILE_BYTES
from provisioners.code.facts import ProjectFacts
from provisioners.code.local import LocalFolders


class CountingReader(FactsReader):
    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    async def read(
        self, folder: Path, *, dependencies: bool, list_bytes: int = MAX_FILE_BYTES
    ) -> ProjectFacts:
        self.reads += 1
        return await super().read(folder, dependencies=dependencies, list_bytes=list_bytes)


@pytest.fixture
async def reader() -> AsyncIterator[CountingReader]:
    reader = CountingReader()
    yield reader
    reader.close()


async def test_each_state_of_a_folder_is_read_once(tmp_path: Path, reader: CountingReader) -> None:
    folders = LocalFolders(reader, closed=tmp_path / "closed")
    image = tmp_path.as_uri()
    file = tmp_path / "control-plane.toml"
    with pytest.raises(UnrecoverableProvisioningError, match="holds neither"):
        await folders.open(image)
    (tmp_path / "main.py").touch()
    for warm in (0, 1, 2):
        if warm:
            file.write_text(f"warm = {warm}")
        for _ in range(3):
            assert (await folders.open(image)).warm == warm
    assert reader.reads == 4

    # The same length and time, but another file.
    times = file.stat()
    fresh = tmp_path / "fresh"
    fresh.write_text("warm = 3")
    os.utime(fresh, ns=(times.st_atime_ns, times.st_mtime_ns))
    fresh.replace(file)
    assert (await folders.open(image)).warm == 3
    file.write_text("warm = 4")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (await folders.open(image)).warm == 4
    assert reader.reads == 6

    file.unlink()
    os.mkfifo(file)
    for _ in range(3):
        with pytest.raises(UnrecoverableProvisioningError, match="not a regular file"):
            await folders.open(image)
    assert reader.reads == 7


async def test_a_folder_that_is_gone_is_not_remembered(
    tmp_path: Path, reader: CountingReader
) -> None:
    folders = LocalFolders(reader, closed=tmp_path / "closed")
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "main.py").touch()
    await folders.open(folder.as_uri())
    folder.rename(tmp_path / "away")
    with pytest.raises(UnrecoverableProvisioningError, match="does not exist"):
        await folders.open(folder.as_uri())

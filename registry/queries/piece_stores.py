"""Where the content of code bundles is kept: Postgres, or a folder.

| | Postgres | a folder |
|---|---|---|
| chosen by | default | `BUNDLE_STORE_FOLDER` |
| needs | nothing | a folder that the API and the Temporal workers share |
| saved by | the database's backup | a backup of its own, taken after the database's |
"""

import asyncio
import errno
import os
import secrets
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from sqlalchemy import any_, delete, literal, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import Text

from core.ids import ProjectId
from core.settings import BundleStoreSettings
from registry.database.engine import Registry
from registry.database.tables import BundlePiece

_PIECES_AT_ONCE: Final = 50
"""Pieces that one statement deletes: up to 50 MiB."""
_UNFINISHED: Final = "."
"""How the names of files begin that are being written."""
_UNFINISHED_SECONDS: Final = 86_400.0
"""After this time no process writes such a file any more."""


class PieceStore(ABC):
    """Keeps the content of pieces, apart for each project. Each method may be called again."""

    @abstractmethod
    async def missing(self, project_id: ProjectId, pieces: Collection[str]) -> list[str]:
        """Name those of the pieces that are not stored, in order."""

    @abstractmethod
    async def put(self, project_id: ProjectId, contents: Mapping[str, bytes]) -> None:
        """Store pieces by their SHA-256, which the caller has checked. Those stored stay."""

    @abstractmethod
    async def read(self, project_id: ProjectId, pieces: Collection[str]) -> dict[str, bytes]:
        """Give the content of those of the pieces that are stored: a few MiB at a time."""

    @abstractmethod
    async def keep_only(
        self, session: AsyncSession, project_id: ProjectId, pieces: Collection[str]
    ) -> None:
        """Delete all pieces of a project but these.

        What lies in the registry's database is deleted in the caller's transaction: one that took
        a second connection, while others wait for its lock with theirs, could wait for ever.
        """

    @abstractmethod
    async def delete_some(self, project_id: ProjectId) -> bool:
        """Delete some pieces of a project, for a moment; returns whether there may be more."""


def piece_store(registry: Registry, settings: BundleStoreSettings) -> PieceStore:
    """Give the store that the settings name."""
    if settings.bundle_store_folder is None:
        return PostgresPieces(registry)
    return FolderPieces(settings.bundle_store_folder)


class PostgresPieces(PieceStore):
    """One row for each piece."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def missing(self, project_id: ProjectId, pieces: Collection[str]) -> list[str]:
        """Name those of the pieces that are not stored, in order."""
        wanted = literal(sorted(pieces), ARRAY(Text))
        async with self._registry.autocommit() as session:
            stored = await session.scalars(
                select(BundlePiece.sha256).where(
                    BundlePiece.project_id == project_id, BundlePiece.sha256 == any_(wanted)
                )
            )
            return sorted(set(pieces) - set(stored))

    async def put(self, project_id: ProjectId, contents: Mapping[str, bytes]) -> None:
        """Store pieces. In one order, so that two uploads of the same ones do not lock up."""
        if not contents:
            return
        rows = [
            {"project_id": project_id, "sha256": piece, "content": contents[piece]}
            for piece in sorted(contents)
        ]
        async with self._registry.transaction() as session:
            await session.execute(insert(BundlePiece).on_conflict_do_nothing(), rows)

    async def read(self, project_id: ProjectId, pieces: Collection[str]) -> dict[str, bytes]:
        """Give the content of those of the pieces that are stored."""
        wanted = literal(sorted(pieces), ARRAY(Text))
        async with self._registry.autocommit() as session:
            rows = await session.execute(
                select(BundlePiece.sha256, BundlePiece.content).where(
                    BundlePiece.project_id == project_id, BundlePiece.sha256 == any_(wanted)
                )
            )
            return {row.sha256: row.content for row in rows}

    async def keep_only(
        self, session: AsyncSession, project_id: ProjectId, pieces: Collection[str]
    ) -> None:
        """Delete all pieces of a project but these."""
        stored = await session.scalars(
            select(BundlePiece.sha256).where(BundlePiece.project_id == project_id)
        )
        unwanted = sorted(set(stored) - set(pieces))
        for start in range(0, len(unwanted), _PIECES_AT_ONCE):
            some = literal(unwanted[start : start + _PIECES_AT_ONCE], ARRAY(Text))
            await session.execute(
                delete(BundlePiece).where(
                    BundlePiece.project_id == project_id, BundlePiece.sha256 == any_(some)
                )
            )

    async def delete_some(self, project_id: ProjectId) -> bool:
        """Delete some pieces of a project; returns whether there may be more."""
        some = (
            select(BundlePiece.project_id, BundlePiece.sha256)
            .where(BundlePiece.project_id == project_id)
            .limit(_PIECES_AT_ONCE)
        )
        deleted = (
            delete(BundlePiece)
            .where(tuple_(BundlePiece.project_id, BundlePiece.sha256).in_(some))
            .returning(literal(1))
            .execution_options(synchronize_session=False)
        )
        async with self._registry.autocommit() as session:
            return len((await session.scalars(deleted)).all()) == _PIECES_AT_ONCE


class FolderPieces(PieceStore):
    """One file for each piece, `<folder>/<project id>/<two digits>/<digest>`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def missing(self, project_id: ProjectId, pieces: Collection[str]) -> list[str]:
        """Name those of the pieces that have no file, in order."""

        def look() -> list[str]:
            return [p for p in sorted(pieces) if not self._path(project_id, p).exists()]

        return await asyncio.to_thread(look)

    async def put(self, project_id: ProjectId, contents: Mapping[str, bytes]) -> None:
        """Write the files that are not there, each in one step."""

        def write() -> None:
            folders: set[Path] = set()
            for piece, content in contents.items():
                path = self._path(project_id, piece)
                if path.exists():
                    continue
                try:
                    _write(path, content)
                except FileNotFoundError:
                    # Another process has just deleted the folder, with the project's other pieces.
                    _write(path, content)
                folders.update(path.parents[:3])
            for folder in folders:
                # One that was deleted meanwhile has nothing to keep.
                with suppress(FileNotFoundError):
                    _sync_folder(folder)

        await asyncio.to_thread(write)

    async def read(self, project_id: ProjectId, pieces: Collection[str]) -> dict[str, bytes]:
        """Read those of the files that are there."""

        def read() -> dict[str, bytes]:
            contents = {}
            for piece in pieces:
                with suppress(FileNotFoundError):
                    contents[piece] = self._path(project_id, piece).read_bytes()
            return contents

        return await asyncio.to_thread(read)

    async def keep_only(
        self,
        session: AsyncSession,  # noqa: ARG002 - for what lies in the database
        project_id: ProjectId,
        pieces: Collection[str],
    ) -> None:
        """Delete all files of a project but these, and those that others are writing."""
        wanted = set(pieces)
        left_before = time.time() - _UNFINISHED_SECONDS

        def clear() -> None:
            for path in (self._folder / project_id).glob("*/*"):
                if path.name in wanted:
                    continue
                with suppress(FileNotFoundError):
                    if _is_whole(path) or path.stat().st_mtime < left_before:
                        path.unlink()

        await asyncio.to_thread(clear)

    async def delete_some(self, project_id: ProjectId) -> bool:
        """Delete one of up to 256 folders of a project; returns whether there are more."""

        def remove() -> bool:
            folder = self._folder / project_id
            if not folder.is_dir():
                return False
            try:
                part = next(folder.iterdir(), None)
                if part is None:
                    folder.rmdir()
                    return False
                shutil.rmtree(part)
            except OSError as error:
                # Another deletes the same, or an upload has just written a file: once more.
                if error.errno not in {errno.ENOENT, errno.ENOTEMPTY}:
                    raise
            return True

        return await asyncio.to_thread(remove)

    def _path(self, project_id: ProjectId, piece: str) -> Path:
        return self._folder / project_id / piece[:2] / piece


def _write(path: Path, content: bytes) -> None:
    """Make a file in one step. Its folders are still to be synced.

    Raises:
        FileNotFoundError: its folder was deleted meanwhile.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.parent / f"{_UNFINISHED}{secrets.token_hex(8)}"
    with fresh.open("xb") as file:
        file.write(content)
        file.flush()
        # Before it has its name: an empty file would count as present.
        os.fsync(file.fileno())
    fresh.rename(path)


def _is_whole(path: Path) -> bool:
    return not path.name.startswith(_UNFINISHED)


def _sync_folder(folder: Path) -> None:
    """See to it that the names in a folder outlive a crash of the machine, as content does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Where the content of code bundles is kept: Postgres, or a folder.

| | Postgres | a folder |
|---|---|---|
| chosen by | default | `BUNDLE_STORE_FOLDER` |
| needs | nothing | a folder that the API and the Temporal workers share |
| saved by | the database's backup | a backup of its own, taken after the database's |
"""

import asyncio
import os
import secrets
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from sqlalchemy import any_, delete, literal, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.types import Text

from core.bundles import PieceStore
from core.ids import ProjectId
from core.settings import BundleStoreSettings
from registry.engine import Registry
from registry.tables import BundlePiece

_PIECES_AT_ONCE: Final = 50
"""Pieces that one transaction deletes: up to 50 MiB."""


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

    async def keep_only(self, project_id: ProjectId, pieces: Collection[str]) -> None:
        """Delete all pieces of a project but these."""
        async with self._registry.autocommit() as session:
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
            for piece, content in contents.items():
                path = self._path(project_id, piece)
                if path.exists():
                    continue
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                fresh = path.parent / f".{secrets.token_hex(8)}"
                with fresh.open("xb") as file:
                    file.write(content)
                    file.flush()
                    # The answer promises that it is stored: an empty file would count as present.
                    os.fsync(file.fileno())
                fresh.rename(path)

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

    async def keep_only(self, project_id: ProjectId, pieces: Collection[str]) -> None:
        """Delete all files of a project but these."""
        wanted = set(pieces)

        def clear() -> None:
            for path in (self._folder / project_id).glob("*/*"):
                if path.name not in wanted:
                    path.unlink(missing_ok=True)

        await asyncio.to_thread(clear)

    async def delete_some(self, project_id: ProjectId) -> bool:
        """Delete one of up to 256 folders of a project; returns whether there are more."""

        def remove() -> bool:
            folder = self._folder / project_id
            if not folder.is_dir():
                return False
            part = next(folder.iterdir(), None)
            if part is None:
                folder.rmdir()
                return False
            shutil.rmtree(part)
            return True

        return await asyncio.to_thread(remove)

    def _path(self, project_id: ProjectId, piece: str) -> Path:
        return self._folder / project_id / piece[:2] / piece

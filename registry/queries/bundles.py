"""Queries for code bundles: their manifests, which versions run them, and what no version needs.

Announcing a bundle, registering a version with it and clearing away follow one another within a
project (`_one_at_a_time`), so that nothing is deleted that was just called present.
"""

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Final

from sqlalchemy import delete, exists, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from core.bundles import (
    BundleIsGoneError,
    Manifest,
    StoredBundle,
    digest_of,
)
from core.clock import utc_now
from core.errors import (
    BundleDoesNotExistError,
    BundleIsNotCompleteError,
    ProjectDoesNotExistError,
    ProjectIsBeingDeletedError,
)
from core.ids import ProjectId, VersionId
from registry.database.engine import Registry
from registry.database.tables import Bundle, Project, Version, VersionBundle
from registry.queries.piece_stores import PieceStore
from registry.queries.projects import is_deletion_requested

UNUSED_AFTER: Final = timedelta(days=1)
"""How long a bundle is kept without a version: a deployment may still be under way."""
_BUNDLES_AT_ONCE: Final = 50


async def announce(
    session: AsyncSession, *, project_name: str, manifest: Manifest, pieces: PieceStore
) -> ProjectId:
    """Note that a bundle is about to be uploaded, and clear away what no version needs any more.

    From the commit on, the pieces that it names stay for `UNUSED_AFTER`; which of them are missing
    is to be asked only then.

    Raises:
        ProjectDoesNotExistError: there is no such project.
        ProjectIsBeingDeletedError: its deletion was requested.
    """
    project_id = await find_project(session, project_name=project_name, lock=True)
    await _one_at_a_time(session, project_id)
    now = utc_now()
    values = {
        "project_id": project_id,
        "digest": manifest.digest,
        "manifest": manifest.to_json(),
        "pieces": sorted(manifest.pieces),
        "announced_at": now,
    }
    await session.execute(
        insert(Bundle)
        .values(**values)
        .on_conflict_do_update(
            index_elements=[Bundle.project_id, Bundle.digest], set_={"announced_at": now}
        )
    )
    await _clear_away(session, project_id, pieces)
    return project_id


async def find_project(
    session: AsyncSession, *, project_name: str, lock: bool = False
) -> ProjectId:
    """Give the id of a project that takes bundles.

    Args:
        session: the transaction.
        project_name: the project.
        lock: hold off a request to delete it until the transaction's end.

    Raises:
        ProjectDoesNotExistError: there is no such project.
        ProjectIsBeingDeletedError: its deletion was requested.
    """
    query = select(Project).where(Project.name == project_name)
    project = await session.scalar(query.with_for_update(read=True) if lock else query)
    if project is None:
        raise ProjectDoesNotExistError
    if project.deletion_requested_at is not None:
        raise ProjectIsBeingDeletedError
    return ProjectId(project.id)


async def get_manifest(session: AsyncSession, project_id: ProjectId, digest: str) -> Manifest:
    """Give a bundle.

    Raises:
        BundleDoesNotExistError: it was not announced.
    """
    manifest = await session.scalar(
        select(Bundle.manifest).where(Bundle.project_id == project_id, Bundle.digest == digest)
    )
    if manifest is None:
        raise BundleDoesNotExistError
    return Manifest.from_json(manifest)


async def store_pieces(
    registry: Registry,
    store: PieceStore,
    project_id: ProjectId,
    *,
    contents: Mapping[str, bytes],
) -> None:
    """Store pieces of a project.

    Raises:
        ProjectIsBeingDeletedError: its deletion was requested meanwhile; they may be gone again.
    """
    try:
        await store.put(project_id, contents)
    except IntegrityError:
        raise ProjectIsBeingDeletedError from None
    async with registry.autocommit() as session:
        if await is_deletion_requested(session, project_id) is False:
            return
    # The deletion may have passed the pieces of this project already.
    while await store.delete_some(project_id):
        pass
    raise ProjectIsBeingDeletedError


async def check_complete(
    registry: Registry, pieces: PieceStore, *, project_name: str, images: Collection[str]
) -> None:
    """Make sure that the bundles among some images can be run.

    Raises:
        BundleIsNotCompleteError: one of them is not there, or not all of it; the text names it.
        ProjectDoesNotExistError: there is no such project.
        ProjectIsBeingDeletedError: its deletion was requested.
    """
    for digest in _digests_of(images):
        async with registry.autocommit() as session:
            project_id = await find_project(session, project_name=project_name)
            try:
                needed = (await get_manifest(session, project_id, digest)).pieces
            except BundleDoesNotExistError:
                raise _not_uploaded(digest) from None
        missing = await pieces.missing(project_id, needed)
        if missing:
            raise BundleIsNotCompleteError(
                f"The code bundle {digest} has not been uploaded completely: {len(missing)} of its "
                f"{len(needed)} pieces are missing"
            )


async def use_in_version(
    session: AsyncSession, version_id: VersionId, *, project_id: ProjectId, images: Collection[str]
) -> None:
    """Keep the bundles among a version's images as long as the version.

    Raises:
        BundleIsNotCompleteError: one of them is not there.
    """
    digests = _digests_of(images)
    if not digests:
        return
    await _one_at_a_time(session, project_id)
    found = set(
        await session.scalars(
            select(Bundle.digest).where(Bundle.project_id == project_id, Bundle.digest.in_(digests))
        )
    )
    for digest in digests:
        if digest not in found:
            raise _not_uploaded(digest)
        session.add(VersionBundle(version_id=version_id, digest=digest, project_id=project_id))
    await session.flush()


def _digests_of(images: Collection[str]) -> list[str]:
    return sorted({digest for image in images if (digest := digest_of(image)) is not None})


def _not_uploaded(digest: str) -> BundleIsNotCompleteError:
    return BundleIsNotCompleteError(
        f"The code bundle {digest[:64]!r} has not been uploaded to this project"
    )


async def _one_at_a_time(session: AsyncSession, project_id: ProjectId) -> None:
    await session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
        {"name": f"bundles of {project_id}"},
    )


async def _clear_away(session: AsyncSession, project_id: ProjectId, pieces: PieceStore) -> None:
    """Delete old bundles without a version, and then the pieces that no bundle names."""
    is_used = exists().where(
        VersionBundle.project_id == Bundle.project_id, VersionBundle.digest == Bundle.digest
    )
    old = (
        select(Bundle.project_id, Bundle.digest)
        .where(
            Bundle.project_id == project_id,
            Bundle.announced_at < utc_now() - UNUSED_AFTER,
            ~is_used,
        )
        .limit(_BUNDLES_AT_ONCE)
    )
    deleted = await session.scalars(
        delete(Bundle)
        .where(tuple_(Bundle.project_id, Bundle.digest).in_(old))
        .returning(Bundle.digest)
        .execution_options(synchronize_session=False)
    )
    if not deleted.all():
        return
    named = await session.scalars(
        select(func.unnest(Bundle.pieces)).where(Bundle.project_id == project_id).distinct()
    )
    # Files are gone also if the transaction fails after it. A bundle is left then whose pieces are
    # missing: the next announcement is told so.
    await pieces.keep_only(session, project_id, set(named))


async def delete_bundles(session: AsyncSession, project_id: ProjectId) -> bool:
    """Delete some bundles of a project without versions; returns whether some are left."""
    some = (
        select(Bundle.project_id, Bundle.digest)
        .where(Bundle.project_id == project_id)
        .limit(_BUNDLES_AT_ONCE)
    )
    deleted = await session.scalars(
        delete(Bundle)
        .where(tuple_(Bundle.project_id, Bundle.digest).in_(some))
        .returning(Bundle.digest)
        .execution_options(synchronize_session=False)
    )
    return len(deleted.all()) == _BUNDLES_AT_ONCE


class StoredBundles:
    """The registry's bundles, for provisioners (`core.bundles.BundleSource`)."""

    def __init__(self, registry: Registry, pieces: PieceStore) -> None:
        self._registry = registry
        self._pieces = pieces

    async def open(self, version_id: VersionId, digest: str) -> StoredBundle:
        """Find a bundle of the project that a version belongs to.

        Raises:
            BundleIsGoneError: there is no such version, or no such bundle.
        """
        async with self._registry.autocommit() as session:
            found = (
                await session.execute(
                    select(Bundle.project_id, Bundle.manifest)
                    .join(Version, Version.project_id == Bundle.project_id)
                    .where(Version.id == version_id, Bundle.digest == digest)
                )
            ).one_or_none()
        if found is None:
            raise BundleIsGoneError(f"The code bundle {digest} is not stored any more")
        project_id, manifest = found
        return _Bundle(ProjectId(project_id), Manifest.from_json(manifest), self._pieces)


class _Bundle(StoredBundle):
    def __init__(self, project_id: ProjectId, manifest: Manifest, pieces: PieceStore) -> None:
        super().__init__(manifest)
        self._project_id = project_id
        self._pieces = pieces

    async def read(self, pieces: Collection[str]) -> dict[str, bytes]:
        contents = await self._pieces.read(self._project_id, pieces)
        for piece in pieces:
            if piece not in contents:
                raise BundleIsGoneError(f"The piece {piece} of a code bundle is not stored")
        return contents

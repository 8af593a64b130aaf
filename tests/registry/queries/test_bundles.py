"""Code bundles in the registry: what stays, what goes, and what a provisioner reads."""

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.deletion import DeletionActivities
from core.bundles import BundleIsGoneError, Manifest
from core.clock import utc_now
from core.errors import BundleIsNotCompleteError, ProjectIsBeingDeletedError
from core.ids import ProjectId, VersionId
from core.messages import ProjectRowsRequest
from core.settings import BundleStoreSettings, RegistrySettings
from registry.database.engine import Registry
from registry.database.tables import Bundle, BundlePiece, Project, Version, VersionBundle
from registry.queries.bundles import (
    UNUSED_AFTER,
    StoredBundles,
    announce,
    check_complete,
    store_pieces,
)
from registry.queries.piece_stores import FolderPieces, PieceStore, PostgresPieces, piece_store
from registry.queries.projects import create_project
from registry.queries.versions import create_version
from registry.transitions.deletion import request_project_deletion
from tests.support.bundles import contents_of, manifest_of

OLD = {"main.py": b"old", "shared": b"the same"}
NEW = {"main.py": b"new", "shared": b"the same"}


@pytest.fixture(params=["postgres", "folder"])
def store(request: pytest.FixtureRequest, registry: Registry, tmp_path: Path) -> PieceStore:
    folder = tmp_path / "bundles" if request.param == "folder" else None
    return piece_store(registry, BundleStoreSettings(bundle_store_folder=folder))


@pytest.fixture
async def project(registry: Registry) -> ProjectId:
    async with registry.transaction() as session:
        return ProjectId((await create_project(session, name="shop")).id)


async def upload(registry: Registry, store: PieceStore, files: Mapping[str, bytes]) -> Manifest:
    manifest = manifest_of(files)
    async with registry.transaction() as session:
        project_id = await announce(session, project_name="shop", manifest=manifest, pieces=store)
    contents = contents_of(files)
    missing = await store.missing(project_id, manifest.pieces)
    await store_pieces(
        registry, store, project_id, contents={piece: contents[piece] for piece in missing}
    )
    return manifest


async def use(registry: Registry, manifest: Manifest) -> VersionId:
    async with registry.transaction() as session:
        created = await create_version(
            session,
            project_name="shop",
            default_docker_image=f"bundle://{manifest.digest}",
            functions=[],
            default_pool="p",
        )
    return VersionId(created.version.id)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def grow_old(registry: Registry) -> None:
    async with registry.transaction() as session:
        earlier = utc_now() - UNUSED_AFTER - timedelta(minutes=1)
        await session.execute(update(Bundle).values(announced_at=earlier))


def test_the_settings_choose_the_store(registry: Registry, tmp_path: Path) -> None:
    chosen = [
        piece_store(registry, BundleStoreSettings(bundle_store_folder=folder))
        for folder in (None, tmp_path)
    ]
    assert [type(store) for store in chosen] == [PostgresPieces, FolderPieces]


@pytest.mark.usefixtures("project")
async def test_clearing_away_needs_no_second_connection(
    registry_settings: RegistrySettings,
) -> None:
    only_one = Registry(registry_settings.model_copy(update={"postgres_pool_size": 1}))
    try:
        store = PostgresPieces(only_one)
        await upload(only_one, store, OLD)
        await grow_old(only_one)
        await upload(only_one, store, NEW)
    finally:
        await only_one.close()


async def test_a_file_that_somebody_writes_is_not_cleared_away(
    registry: Registry, project: ProjectId, tmp_path: Path
) -> None:
    store = FolderPieces(tmp_path)
    await upload(registry, store, OLD)
    (folder, *_) = (tmp_path / project).iterdir()
    (written, left) = (folder / ".written", folder / ".left")
    written.touch()
    left.touch()
    os.utime(left, (0, 0))
    await grow_old(registry)
    await upload(registry, store, NEW)
    assert (written.exists(), left.exists()) == (True, False)


@pytest.mark.usefixtures("project")
async def test_a_provisioner_reads_what_was_uploaded(registry: Registry, store: PieceStore) -> None:
    manifest = await upload(registry, store, NEW)
    version_id = await use(registry, manifest)
    bundle = await StoredBundles(registry, store).open(version_id, manifest.digest)
    assert bundle.manifest == manifest
    assert await bundle.read(list(manifest.pieces)) == contents_of(NEW)
    with pytest.raises(BundleIsGoneError):
        await bundle.read([*manifest.pieces, "0" * 64])
    with pytest.raises(BundleIsGoneError):
        await StoredBundles(registry, store).open(version_id, "0" * 64)


async def test_an_old_bundle_without_a_version_goes_and_shared_pieces_stay(
    registry: Registry, store: PieceStore, project: ProjectId
) -> None:
    old = await upload(registry, store, OLD)
    kept = await upload(registry, store, {"kept": b"by its version"})
    await use(registry, kept)
    await grow_old(registry)
    new = await upload(registry, store, NEW)
    assert await store.missing(project, new.pieces) == []
    assert await store.missing(project, kept.pieces) == []
    assert await store.missing(project, old.pieces) == sorted(contents_of({"": b"old"}))
    with pytest.raises(BundleIsNotCompleteError):
        await use(registry, old)


async def test_a_young_bundle_without_a_version_stays(
    registry: Registry, store: PieceStore, project: ProjectId
) -> None:
    old = await upload(registry, store, OLD)
    await upload(registry, store, NEW)
    assert await store.missing(project, old.pieces) == []
    images = {f"bundle://{old.digest}"}
    await check_complete(registry, store, project_name="shop", images=images)


async def test_a_deleted_project_leaves_nothing(
    registry: Registry,
    store: PieceStore,
    project: ProjectId,
    temporal_client: Client,
    tmp_path: Path,
) -> None:
    many = {str(number): b"%d" % number for number in range(120)}
    await use(registry, await upload(registry, store, many))
    await upload(registry, store, NEW)
    async with registry.transaction() as session:
        await request_project_deletion(session, name="shop")

    activities = DeletionActivities(registry, temporal_client, store)
    deleted = await ActivityEnvironment().run(
        activities.delete_project_rows, ProjectRowsRequest(project_id=project)
    )

    assert deleted.complete
    async with registry.autocommit() as session:
        for table in (Project, Version, VersionBundle, Bundle, BundlePiece):
            assert await session.scalar(select(func.count()).select_from(table)) == 0
    assert files_in(tmp_path) == []
    with pytest.raises(ProjectIsBeingDeletedError):
        await store_pieces(registry, store, project, contents=contents_of({"late": b"late"}))
    assert files_in(tmp_path) == []

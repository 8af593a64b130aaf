"""Code bundles of the process provisioner: the folders that they become, and their removal."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from core.ids import VersionId
from provisioners.base import (
    UnrecoverableProvisioningError,
)
from provisioners.code.project_code import ProjectCode
from provisioners.conformance import wait_for_end
from provisioners.files import delete_tree
from tests.support.bundles import contents_of
from tests.support.provisioners.bundles_in_memory import (
    DEPENDS_ON_TINY,
    PROGRAM,
    Bundles,
    another,
    files_of,
    make_old,
    output_of,
)
from tests.support.provisioners.process_backend import ProcessBackend, exists, run


async def test_a_bundle_becomes_a_folder_of_read_only_files(
    backend: ProcessBackend, bundles: Bundles, code: Path
) -> None:
    large = os.urandom(5 * 2**20 + 7)
    files = {
        "control-plane.toml": b'command = ["./run.sh"]',
        "run.sh": b'#!/bin/sh\ncd "$CONTROL_PLANE_PROJECT_FOLDER" && wc -c < data/large\n',
        "data/large": large,
        "data/empty": b"",
        "package/module.py": b"x = 1\n",
        "package/broken.py": b"def\n",
    }
    image = bundles.add(files, executable=["run.sh"])
    await backend.provisioner.prepare(backend.function_for(image))
    folder = files_of(code, image)
    for path, content in files.items():
        assert (folder / path).read_bytes() == content
        mode = (folder / path).stat().st_mode & 0o777
        assert mode == (0o555 if path == "run.sh" else 0o444), path
    assert folder.stat().st_mode & 0o777 == 0o555
    assert [path.stem.partition(".")[0] for path in folder.rglob("*.pyc")] == ["module"]
    assert await output_of(backend, image) == str(len(large))


async def test_it_is_fetched_once_also_for_many_functions_and_two_temporal_workers(
    backend: ProcessBackend, bundles: Bundles, code: Path
) -> None:
    other = await another(backend, bundles)
    image = bundles.add(DEPENDS_ON_TINY)
    function = backend.function_for(image)
    try:
        await asyncio.gather(
            *(backend.provisioner.prepare(function) for _ in range(5)),
            *(other.prepare(function) for _ in range(5)),
        )
    finally:
        await other.close()
    assert 1 <= len(bundles.opened) <= 2
    assert [path.name for path in (code / "bundles").iterdir()] == [image[len("bundle://") :]]
    assert len(list((code / "environments").glob("*/used"))) == 1
    assert await output_of(backend, image) == "42"


async def test_what_was_removed_is_made_again_for_the_next_worker(
    backend: ProcessBackend, bundles: Bundles, code: Path
) -> None:
    image = bundles.add(DEPENDS_ON_TINY)
    await backend.provisioner.prepare(backend.function_for(image))
    for folder in ("bundles", "environments"):
        for entry in (code / folder).iterdir():
            if entry.is_dir():
                delete_tree(entry)
    assert await output_of(backend, image) == "42"


async def test_a_worker_that_has_run_is_adopted_without_its_bundle(
    backend: ProcessBackend, bundles: Bundles, code: Path
) -> None:
    image = bundles.add({**PROGRAM, "program.py": b""})
    request = backend.request_for(image)
    first = await backend.provisioner.provision(request)
    await wait_for_end(backend.provisioner, first)
    bundles.stored.clear()
    for entry in (code / "bundles").iterdir():
        delete_tree(entry)
    assert await backend.provisioner.provision(request) == first


async def test_a_bundle_that_is_gone_or_holds_no_program_fails_for_good(
    backend: ProcessBackend, bundles: Bundles
) -> None:
    for image, text in (
        (f"bundle://{'0' * 64}", "gone"),
        ("bundle://../../etc", "bundle://../../etc does not name a code bundle"),
        (bundles.add({"data": b""}), "holds neither Python code nor a control-plane.toml"),
        (bundles.add({"control-plane.toml": b"x"}), "cannot be parsed"),
    ):
        with pytest.raises(UnrecoverableProvisioningError, match=text):
            await backend.provisioner.prepare(backend.function_for(image))


async def test_a_bundle_that_is_gone_for_one_version_is_there_for_another(
    backend: ProcessBackend, bundles: Bundles
) -> None:
    """The project of the first one was deleted; the second one's has the same code."""
    of_deleted = backend.function_for(bundles.add({**PROGRAM, "program.py": b""}))
    of_other = replace(of_deleted, version_id=VersionId("ver-" + "1" * 32))
    bundles.gone_for.add(of_deleted.version_id)
    with pytest.raises(UnrecoverableProvisioningError, match="gone"):
        await backend.provisioner.prepare(of_deleted)
    await backend.provisioner.prepare(of_other)


async def test_a_damaged_piece_is_noticed(
    backend: ProcessBackend, bundles: Bundles, code: Path
) -> None:
    image = bundles.add({**PROGRAM, "program.py": b"print('good')"})
    _, contents = bundles.stored[image.removeprefix("bundle://")]
    (piece,) = contents_of({"": b"print('good')"})
    contents[piece] = b"print('evil')"
    with pytest.raises(
        UnrecoverableProvisioningError, match=f"The stored piece {piece} is damaged"
    ):
        await backend.provisioner.prepare(backend.function_for(image))
    assert list((code / "bundles").iterdir()) == []


def names_in(folder: Path, pattern: str = "*") -> set[str]:
    return {path.name for path in folder.glob(pattern)}


async def test_no_project_shares_a_folder_with_another(
    backend: ProcessBackend, bundles: Bundles, all_code: Path
) -> None:
    """Both have the same bundle. What one of them does to its own is not seen by the other."""
    image = bundles.add(DEPENDS_ON_TINY)
    names = ("project", "other", "../../project", "x" * 64)
    for name in names:
        function = replace(backend.function_for(image), project_name=name)
        await backend.provisioner.prepare(function)
    homes = ProjectCode.all_in(all_code)
    assert len(homes) == len(names)
    assert names_in(all_code) == {"lock", *(home.folder.name for home in homes)}
    evil = ProjectCode.of(all_code, "other")
    for file in (
        files_of(evil.folder, image) / "program.py",
        *evil.environments.glob("*/venv/lib/python*/site-packages/tiny.py"),
    ):
        file.chmod(0o644)
        file.write_bytes(b"print('evil')\nvalue = 'evil'\n")
    assert await output_of(backend, image) == "42"
    request = replace(backend.request_for(image), project_name="other")
    assert (await run(backend, request))[1] == ["evil"]


async def test_what_was_left_before_projects_had_folders_of_their_own_goes_when_it_is_old(
    backend: ProcessBackend, bundles: Bundles, all_code: Path
) -> None:
    """Workers that were started before the upgrade still run from there."""
    for name in ("bundles/aa", "bundles/bb", "environments/cc", "uv-cache"):
        (all_code / name).mkdir(parents=True)
        (all_code / name / "used").touch()
    (all_code / "environments" / "cc.lock").touch()
    os.utime(all_code / "bundles" / "aa" / "used", (0, 0))
    await (await another(backend, bundles)).close()
    assert names_in(all_code, "*/??") == {"bb", "cc"}

    make_old(all_code)
    await (await another(backend, bundles)).close()
    assert names_in(all_code) == {
        "lock",
        "bundles",
        "environments",
        "uv-cache",
    }
    # Nothing has been in there for long.
    for folder in ("bundles", "environments"):
        os.utime(all_code / folder, (0, 0))
    await (await another(backend, bundles)).close()
    assert names_in(all_code) == {"lock"}


async def test_the_folder_of_a_project_that_is_not_used_any_more_goes_as_a_whole(
    backend: ProcessBackend, bundles: Bundles, code: Path
) -> None:
    image = bundles.add(DEPENDS_ON_TINY)
    await backend.provisioner.prepare(backend.function_for(image))
    make_old(code)
    await (await another(backend, bundles)).close()
    assert names_in(code, "bundles/*") == set()
    await (await another(backend, bundles)).close()
    assert exists(code)
    for folder in ("bundles", "environments"):
        os.utime(code / folder, (0, 0))
    await (await another(backend, bundles)).close()
    assert not exists(code)
    assert await output_of(backend, image) == "42"

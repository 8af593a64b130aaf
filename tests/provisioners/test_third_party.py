"""A provisioner in a repository of its own runs the conformance suite, as the documents say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.provisioners import mykind
from tests.support.repository import ROOT

GUIDE = ROOT / "docs" / "provisioners.md"
BLOCK = re.compile(r"^```\w+\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The files that the guide shows, in an empty folder, and the provisioner that it is about."""
    folder = tmp_path / "mykind"
    folder.mkdir()
    blocks = BLOCK.findall(GUIDE.read_text())
    assert [name for name, _ in blocks] == ["pyproject.toml", "conftest.py", "test_mykind.py"]
    for name, content in blocks:
        (folder / name).write_text(content)
    (folder / "mykind.py").write_text(Path(mykind.__file__).read_text())
    return folder


def run(
    folder: Path, *arguments: str, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    # Nothing of this session's pytest, and nothing of the checkout but what is installed.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "PYTHONPATH", "COV"))
    }
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_suite_passes_where_the_guide_was_followed(project: Path) -> None:
    done = run(project, "-m", "pytest", "-p", "no:xdist")

    assert done.returncode == 0, done.stdout
    assert re.search(r"\b2\d passed in ", done.stdout), done.stdout


def test_a_failure_shows_both_sides(project: Path) -> None:
    file = project / "mykind.py"
    file.write_text(file.read_text().replace("EXIT_CODE = 3", "EXIT_CODE = 4"))

    done = run(project, "-m", "pytest", "-p", "no:xdist", "-k", "how_it_ended")

    assert done.returncode == 1, done.stdout
    assert "assert 4 == 3" in done.stdout


def test_the_provisioner_is_found_when_it_is_installed(project: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    installed = run(project, "-m", "pip", "install", *options, f"--target={site}", ".")
    assert installed.returncode == 0, installed.stdout

    code = "from provisioners.catalog import load_provisioner_class as load; print(load('mykind'))"
    done = run(tmp_path, "-c", code, path=site)

    assert done.stdout == "<class 'mykind.MyKindProvisioner'>\n"


def test_without_pytest_the_suite_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['pytest'] = None; import provisioners.conformance"
    done = run(tmp_path, "-c", code)

    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == (
        "ImportError: The conformance suite needs pytest: install control-plane with its extra, "
        "control-plane[conformance]"
    )

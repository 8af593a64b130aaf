"""Which projects the process provisioner takes, and what it says of the others."""

import os
import stat
from pathlib import Path

import pytest

from provisioners.base import ProvisionerError, UnrecoverableProvisioningError
from provisioners.code.project import arguments_of, open_project

PYTHON = Path("/usr/bin/python3")


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("registry.example/image:1", "is neither"),
        ("", "is neither"),
        ("file://[", "is neither"),
        ("file://relative/folder", "must name an absolute folder"),
        ("file:relative", "must name an absolute folder"),
        ("file:///nul%00", "must name an absolute folder"),
        ("file:///folder#fragment", "write them as %3F and %23"),
        ("file:///does/not/exist", "does not exist"),
        ("file:///dev/null", "is not a folder"),
    ],
)
def test_refused_images(image: str, text: str) -> None:
    with pytest.raises(UnrecoverableProvisioningError, match=text):
        open_project(image)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("command = ", "cannot be parsed"),
        ('command = ["x"]\ncomand = 1', "unknown key 'comand'"),
        ("command = []", "non-empty list of strings"),
        ('command = "run"', "non-empty list of strings"),
        ("command = [1]", "non-empty list of strings"),
        ('command = [""]', "non-empty list of strings"),
        ("warm = -1", "'warm' must be a whole number from 0 to 100"),
        ("warm = true", "'warm' must be a whole number from 0 to 100"),
        ('warm = 1\ncommand = ["x"]', "'warm' is for Python functions"),
    ],
)
def test_refused_project_files(tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "control-plane.toml").write_text(content)
    (tmp_path / "main.py").touch()

    with pytest.raises(UnrecoverableProvisioningError, match=text):
        open_project(tmp_path.as_uri())


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnrecoverableProvisioningError, match="neither Python code nor"):
        open_project(tmp_path.as_uri())


@pytest.mark.parametrize("file", ["main.py", "functions.py", "package/__init__.py"])
def test_python_projects(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "a folder"
    (folder / file).parent.mkdir(parents=True)
    (folder / file).touch()

    project = open_project(folder.as_uri())
    arguments = arguments_of(project, path="", python=PYTHON, sdk_home=Path("/sdk"))

    assert project.folder == folder
    runner = "/sdk/control_plane/runner/__main__.py"
    assert arguments == (str(PYTHON), "-I", "-S", "-u", runner)


def test_an_empty_project_file_means_the_runner(tmp_path: Path) -> None:
    (tmp_path / "control-plane.toml").touch()
    (tmp_path / "main.py").touch()

    assert open_project(tmp_path.as_uri()).command is None


def test_a_missing_sdk_may_be_installed_later(tmp_path: Path) -> None:
    (tmp_path / "main.py").touch()

    with pytest.raises(ProvisionerError, match="not installed") as caught:
        arguments_of(open_project(tmp_path.as_uri()), path="", python=PYTHON, sdk_home=None)

    assert not isinstance(caught.value, UnrecoverableProvisioningError)


def test_commands(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "run"
    program.parent.mkdir()
    program.touch()
    (tmp_path / "control-plane.toml").write_text('command = ["bin/run", "--fast"]')
    project = open_project(tmp_path.as_uri())

    with pytest.raises(UnrecoverableProvisioningError, match="not executable"):
        arguments_of(project, path="", python=PYTHON, sdk_home=None)
    program.chmod(stat.S_IRWXU)
    assert arguments_of(project, path="", python=PYTHON, sdk_home=None) == (
        str(program),
        "--fast",
    )
    program.unlink()
    with pytest.raises(UnrecoverableProvisioningError, match="does not exist"):
        arguments_of(project, path="", python=PYTHON, sdk_home=None)


def test_bare_commands_are_found_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "control-plane.toml").write_text('command = ["sh", "-c", "true"]')
    project = open_project(tmp_path.as_uri())

    found, *arguments = arguments_of(project, path=os.defpath, python=PYTHON, sdk_home=None)

    assert Path(found).is_absolute()
    assert arguments == ["-c", "true"]
    with pytest.raises(UnrecoverableProvisioningError, match="'sh' was not found"):
        arguments_of(project, path=str(tmp_path), python=PYTHON, sdk_home=None)

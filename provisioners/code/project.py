"""What a worker runs: a project folder, and its control-plane.toml."""

import os
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from provisioners.base import ProvisionerError, UnrecoverableProvisioningError
from provisioners.code.sdk import runner_in

INHERITED_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
"""What a worker gets of the Temporal worker's environment, besides what the operator names."""
MAX_WARM = 100
"""For so many functions of one version a warm parent can be asked for."""
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_PROJECT_FILE = "control-plane.toml"


@dataclass(frozen=True, kw_only=True)
class Project:
    """A code bundle that can be run."""

    folder: Path
    command: tuple[str, ...] | None
    """From control-plane.toml; None: a Python project for the SDK's runner."""

    environment_folder: Path
    """The project's own virtual environment, which may not exist."""

    warm: int = 0
    """From control-plane.toml: for how many functions there may be a warm parent."""


def open_project(docker_image: str) -> Project:
    """Check a code bundle named as `file:///absolute/folder`.

    Raises:
        UnrecoverableProvisioningError: no program can be found there; the text says why.
    """
    folder = _folder_of(docker_image)
    return project_in(folder, environment_folder=folder / ".venv")


def project_in(folder: Path, *, environment_folder: Path) -> Project:
    """Check the code in a folder.

    Raises:
        UnrecoverableProvisioningError: no program can be found there; the text says why.
    """
    try:
        names = {entry.name: entry for entry in folder.iterdir()}
    except FileNotFoundError:
        raise UnrecoverableProvisioningError(f"The folder {folder} does not exist") from None
    except NotADirectoryError:
        raise UnrecoverableProvisioningError(f"{folder} is not a folder") from None
    except PermissionError:
        message = f"The folder {folder} cannot be read by this provisioner"
        raise UnrecoverableProvisioningError(message) from None
    except OSError as error:
        raise ProvisionerError(f"The folder {folder} cannot be read: {error.strerror}") from error
    command, warm = _read_settings(names[_PROJECT_FILE]) if _PROJECT_FILE in names else (None, 0)
    if command is None and not any(_is_python(entry) for entry in names.values()):
        message = f"The folder {folder} holds neither Python code nor a {_PROJECT_FILE}"
        raise UnrecoverableProvisioningError(message)
    return Project(folder=folder, command=command, environment_folder=environment_folder, warm=warm)


def arguments_of(
    project: Project, *, path: str, python: Path, sdk_home: Path | None
) -> tuple[str, ...]:
    """Give the program to execute, as an absolute path, and its arguments.

    Args:
        project: the code bundle.
        path: the worker's PATH, on which a bare command is looked up.
        python: interpreter for projects without a virtual environment of their own.
        sdk_home: folder that holds the package `control_plane`; None if the SDK is not installed.

    Raises:
        UnrecoverableProvisioningError: the command does not exist or cannot be executed.
        ProvisionerError: the SDK is not installed beside the server.
    """
    if project.command is not None:
        name, *arguments = project.command
        return (_executable(name, project.folder, path), *arguments)
    if sdk_home is None:
        raise ProvisionerError(
            "The SDK (package control_plane) is not installed beside the Temporal worker, so only "
            f"projects whose {_PROJECT_FILE} names a command can run"
        )
    return (*interpreter_of(project, python=python), str(runner_in(sdk_home)))


def interpreter_of(project: Project, *, python: Path) -> tuple[str, ...]:
    """Give the interpreter of a project that the SDK's runner runs, and its flags."""
    own_python = project.environment_folder / "bin" / "python"
    if own_python.exists():
        return (str(own_python), "-I", "-u")
    # -S: this interpreter's site-packages are the server's business, and slow to scan.
    return (str(python), "-I", "-S", "-u")


def path_variable(project: Project) -> str:
    """Give the worker's PATH: the project's virtual environment comes first, if it has one."""
    inherited = os.environ.get("PATH", _DEFAULT_PATH)
    programs = project.environment_folder / "bin"
    return f"{programs}{os.pathsep}{inherited}" if programs.is_dir() else inherited


def _folder_of(docker_image: str) -> Path:
    try:
        parts = urlsplit(docker_image)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme != "file":
        raise UnrecoverableProvisioningError(
            "The process provisioner runs code: a bundle that was uploaded (bundle://...), or a "
            f"folder on its machine (file:///absolute/folder). {docker_image!r} is neither"
        )
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        message = f"{docker_image!r} must name an absolute folder: file:///absolute/folder"
        raise UnrecoverableProvisioningError(message)
    if parts.query or parts.fragment:
        message = f"{docker_image!r} must not have ? or #; write them as %3F and %23"
        raise UnrecoverableProvisioningError(message)
    return Path(path)


def _read_settings(file: Path) -> tuple[tuple[str, ...] | None, int]:
    """Give `command` and `warm`."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UnrecoverableProvisioningError(f"{file} cannot be parsed: {error}") from None
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror}"
        raise UnrecoverableProvisioningError(message) from None
    # `functions` is for `control-plane deploy`.
    unknown = sorted(set(content) - {"command", "functions", "warm"})
    if unknown:
        known = "'command', 'functions' and 'warm'"
        message = f"{file} has the unknown key {unknown[0]!r}; known are {known}"
        raise UnrecoverableProvisioningError(message)
    warm = content.get("warm", 0)
    if type(warm) is not int or not 0 <= warm <= MAX_WARM:
        message = f"{file}: 'warm' must be a whole number from 0 to {MAX_WARM}"
        raise UnrecoverableProvisioningError(message)
    if "command" not in content:
        return None, warm
    if warm:
        message = f"{file}: 'warm' is for Python functions, not for a 'command'"
        raise UnrecoverableProvisioningError(message)
    command = content["command"]
    if (
        not isinstance(command, list)
        or not command
        or not all(isinstance(word, str) and "\0" not in word for word in command)
        or not command[0]
    ):
        message = f"{file}: 'command' must be a non-empty list of strings"
        raise UnrecoverableProvisioningError(message)
    return tuple(command), 0


def _executable(name: str, folder: Path, path: str) -> str:
    if "/" in name:
        program = folder / name
        if not program.is_file():
            raise UnrecoverableProvisioningError(f"The command {program} does not exist")
        if not os.access(program, os.X_OK):
            raise UnrecoverableProvisioningError(f"The command {program} is not executable")
        return str(program)
    found = shutil.which(name, path=path)
    if found is None:
        raise UnrecoverableProvisioningError(f"The command {name!r} was not found in {path}")
    return str(Path(found).absolute())


def _is_python(entry: Path) -> bool:
    # One level down is enough to tell: packages may come without __init__.py.
    return entry.suffix == ".py" or (entry.is_dir() and any(entry.glob("*.py")))

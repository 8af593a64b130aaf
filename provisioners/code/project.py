"""What a worker runs: a project folder, and its control-plane.toml."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from provisioners.base import ProvisionerError, UnrecoverableProvisioningError
from provisioners.code.confined import read_facts
from provisioners.code.facts import ProjectFacts
from provisioners.code.sdk import runner_in

INHERITED_VARIABLES = (
    *("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH"),
    # Authorities that are trusted, for an API with a certificate of one's own.
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
)
"""What a worker gets of the Temporal worker's environment, besides what the operator names."""
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
PROJECT_FILE = "control-plane.toml"


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

    Its files are read in a process of its own (`confined`); `LocalFolders` remembers the answer.

    Raises:
        UnrecoverableProvisioningError: no program can be found there; the text says why.
        ProvisionerError: it may work later.
    """
    folder = folder_of(docker_image)
    return project_in(folder, environment_folder=folder / ".venv")


def project_in(folder: Path, *, environment_folder: Path) -> Project:
    """Check the code in a folder, as `open_project` does."""
    try:
        facts = read_facts(folder, dependencies=False)
    except OSError as error:
        raise folder_error(folder, error) from None
    return project_of(facts, folder, environment_folder=environment_folder)


def project_of(facts: ProjectFacts, folder: Path, *, environment_folder: Path) -> Project:
    """Give the code in a folder whose files have been read.

    Raises:
        UnrecoverableProvisioningError: no program can be found there; the text says why.
    """
    facts.check()
    if not facts.is_python:
        message = f"The folder {folder} holds neither Python code nor a {PROJECT_FILE}"
        raise UnrecoverableProvisioningError(message)
    return Project(
        folder=folder,
        command=facts.command,
        environment_folder=environment_folder,
        warm=facts.warm,
    )


def folder_error(folder: Path, error: OSError) -> ProvisionerError:
    """Say why a folder of this machine cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return UnrecoverableProvisioningError(f"The folder {folder} does not exist")
    if isinstance(error, NotADirectoryError):
        return UnrecoverableProvisioningError(f"{folder} is not a folder")
    message = f"The folder {folder} cannot be read"
    if isinstance(error, PermissionError):
        return UnrecoverableProvisioningError(f"{message} by this provisioner")
    return ProvisionerError(f"{message}: {error.strerror}")


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
            f"projects whose {PROJECT_FILE} names a command can run"
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


def folder_of(docker_image: str) -> Path:
    """Read the folder out of an image.

    Raises:
        UnrecoverableProvisioningError: it names none.
    """
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


def _executable(name: str, folder: Path, path: str) -> str:
    if "/" in name:
        program = folder / name
        try:
            is_file = program.is_file()
        except OSError as error:
            message = f"The command {name[:500]!r} cannot be looked at: {error.strerror}"
            raise UnrecoverableProvisioningError(message) from None
        if not is_file:
            raise UnrecoverableProvisioningError(f"The command {program} does not exist")
        if not os.access(program, os.X_OK):
            raise UnrecoverableProvisioningError(f"The command {program} is not executable")
        return str(program)
    found = shutil.which(name, path=path)
    if found is None:
        message = f"The command {name[:500]!r} was not found in {path}"
        raise UnrecoverableProvisioningError(message)
    return str(Path(found).absolute())

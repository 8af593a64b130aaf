"""Starts the shim of a worker, and keeps ended shims from piling up as zombies."""

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from provisioners.base import ResourceSpec, WorkerRequest
from provisioners.code.project import (
    INHERITED_VARIABLES,
    Project,
    arguments_of,
    path_variable,
)
from provisioners.process.cgroups import GIB, Cgroups
from provisioners.process.confinement.confiner import Confiner
from provisioners.process.folder import WorkerFolder
from provisioners.process.programs import kernel
from provisioners.process.scratch import Scratch

EVERY_SIGNAL = [
    number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)
]


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Turns a request into a running shim."""

    python: Path
    """Interpreter of the shim, and of projects without a virtual environment."""
    programs: Path
    """Folder with `shim` and its neighbours."""
    compiled: bool
    """Whether they are compiled for `python`."""
    sdk_home: Path | None
    """Folder that holds the package `control_plane`; None if the SDK is not installed."""
    cgroups: Cgroups
    confiner: Confiner
    log_limit_bytes: int
    passed_environment: tuple[str, ...]

    def check(self, project_name: str, project: Project) -> None:
        """Make sure that there is a program to run.

        Raises:
            UnrecoverableProvisioningError: there is none; the text says why.
            ProvisionerError: it needs the SDK, which is not installed.
        """
        self._arguments(project_name, project)

    def program(self, name: str) -> str:
        """Give the path of a program that `python` runs."""
        return str(self.programs / f"{name}.{'pyc' if self.compiled else 'py'}")

    def launch(
        self,
        request: WorkerRequest,
        project: Project,
        folder: WorkerFolder,
        scratch: Scratch,
        lock: int,
    ) -> int:
        """Start a shim in a session of its own and give its pid; it has the lock from here on.

        Raises:
            UnrecoverableProvisioningError, ProvisionerError: as `check`.
            OSError: a cgroup cannot be made, or the interpreter cannot be executed.
        """
        arguments = self.shim_arguments(request, project, folder, scratch)
        python = str(self.python)
        log_flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW
        return os.posix_spawn(
            python,
            [python, "-I", "-S", self.program("shim"), *arguments],
            self.environment(request, request.environment, project, scratch),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, str(folder.shim_log), log_flags, 0o600),
                (os.POSIX_SPAWN_DUP2, lock, kernel.LOCK_DESCRIPTOR),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=EVERY_SIGNAL,
        )

    def shim_arguments(
        self, request: WorkerRequest, project: Project, folder: WorkerFolder, scratch: Scratch
    ) -> list[str]:
        """Make the worker's scratch folder and cgroups, or find them; give what its shim is told.

        Raises:
            UnrecoverableProvisioningError, ProvisionerError, OSError: as `launch`.
        """
        command = self._arguments(request.project_name, project)
        scratch.create(self.confiner.user_of(request.project_name))
        cgroups = self.cgroups.create(request.execution_id, request.resource_spec)
        data_limit = self.data_limit(request.resource_spec)
        # In the order in which `shim.Options` reads them.
        options = (folder.path, scratch.work, self.log_limit_bytes, data_limit)
        confinement = self.confinement(request.project_name, project, scratch)
        words = (*(f"c{cgroup}" for cgroup in cgroups), *confinement)
        return [*map(str, options), *words, "--", *command]

    def confinement(self, project_name: str, project: Project, scratch: Scratch) -> list[str]:
        """Give the words of `programs.confine.Confinement` for the workers of a project."""
        interpreter = os.path.realpath(project.environment_folder / "bin" / "python")
        needed = [
            self.python.parent.parent,
            Path(interpreter).parent.parent,
            self.programs,
            project.folder,
            project.environment_folder,
            scratch.path.parent,
        ]
        if self.sdk_home is not None:
            needed.append(self.sdk_home)
        return self.confiner.words_for(project_name, needed)

    def _arguments(self, project_name: str, project: Project) -> tuple[str, ...]:
        path = self._path(project_name, project)
        return arguments_of(project, path=path, python=self.python, sdk_home=self.sdk_home)

    def _path(self, project_name: str, project: Project) -> str:
        shown = (project.environment_folder / "bin", self.python.parent)
        return self.confiner.path_for(project_name, path_variable(project), shown=shown)

    def data_limit(self, spec: ResourceSpec) -> int:
        """Give RLIMIT_DATA in bytes, where no cgroup limits the memory; else 0."""
        return 0 if self.cgroups.enforces("memory") else int(spec.memory_gbs * GIB)

    def environment(
        self, request: WorkerRequest, given: Mapping[str, str], project: Project, scratch: Scratch
    ) -> dict[str, str]:
        """Give the whole environment of a program: what it is given, and what it always has."""
        names = (*INHERITED_VARIABLES, *self.passed_environment)
        environment = {name: os.environ[name] for name in names if name in os.environ}
        environment |= {
            **given,
            "PATH": self._path(request.project_name, project),
            "HOME": str(scratch.home),
            "TMPDIR": str(scratch.temporary),
            "CONTROL_PLANE_PROJECT_FOLDER": str(project.folder),
        }
        return environment


class Reaper:
    """Reaps this process's own shims; those started by an earlier process are init's."""

    def __init__(self) -> None:
        self._pidfds: dict[int, int] = {}

    def watch(self, pid: int) -> None:
        """Reap this child when it ends. Call on the event loop."""
        descriptor = os.pidfd_open(pid)
        self._pidfds[pid] = descriptor
        asyncio.get_running_loop().add_reader(descriptor, self._reap, pid)

    def _reap(self, pid: int) -> None:
        descriptor = self._pidfds.pop(pid)
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)

    def close(self) -> None:
        """Reap what has ended and let go of the rest."""
        for pid in list(self._pidfds):
            self._reap(pid)

"""Starts the shim of a worker, and keeps ended shims from piling up as zombies."""

import asyncio
import hashlib
import os
import py_compile
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
from provisioners.process import shim
from provisioners.process.cgroups import GIB, Cgroups
from provisioners.process.folder import WorkerFolder

EVERY_SIGNAL = [
    number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)
]


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Turns a request into a running shim."""

    python: Path
    """Interpreter of the shim, and of projects without a virtual environment."""
    shim: Path
    sdk_home: Path | None
    """Folder that holds the package `control_plane`; None if the SDK is not installed."""
    cgroups: Cgroups
    log_limit_bytes: int
    passed_environment: tuple[str, ...]

    def check(self, project: Project) -> None:
        """Make sure that there is a program to run.

        Raises:
            UnrecoverableProvisioningError: there is none; the text says why.
            ProvisionerError: it needs the SDK, which is not installed.
        """
        self._arguments(project)

    def launch(
        self, request: WorkerRequest, project: Project, folder: WorkerFolder, lock: int
    ) -> int:
        """Start a shim in a session of its own and give its pid; it has the lock from here on.

        Raises:
            UnrecoverableProvisioningError, ProvisionerError: as `check`.
            OSError: a cgroup cannot be made, or the interpreter cannot be executed.
        """
        arguments = self.shim_arguments(request, project, folder)
        python = str(self.python)
        log_flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        return os.posix_spawn(
            python,
            [python, "-I", "-S", str(self.shim), *arguments],
            self.environment(request.environment, project, folder),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, str(folder.shim_log), log_flags, 0o600),
                (os.POSIX_SPAWN_DUP2, lock, shim.LOCK_DESCRIPTOR),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=EVERY_SIGNAL,
        )

    def shim_arguments(
        self, request: WorkerRequest, project: Project, folder: WorkerFolder
    ) -> list[str]:
        """Make the worker's cgroups, or find them; give what the shim must be told.

        Raises:
            UnrecoverableProvisioningError, ProvisionerError, OSError: as `launch`.
        """
        command = self._arguments(project)
        cgroups = self.cgroups.create(request.execution_id, request.resource_spec)
        data_limit = self.data_limit(request.resource_spec)
        # In the order in which `shim.Options` reads them.
        options = (folder.path, self.log_limit_bytes, data_limit, *cgroups)
        return [*map(str, options), "--", *command]

    def _arguments(self, project: Project) -> tuple[str, ...]:
        return arguments_of(
            project, path=path_variable(project), python=self.python, sdk_home=self.sdk_home
        )

    def data_limit(self, spec: ResourceSpec) -> int:
        """Give RLIMIT_DATA in bytes, where no cgroup limits the memory; else 0."""
        return 0 if self.cgroups.enforces("memory") else int(spec.memory_gbs * GIB)

    def environment(
        self, given: Mapping[str, str], project: Project, folder: WorkerFolder
    ) -> dict[str, str]:
        """Give the whole environment of a program: what it is given, and what it always has."""
        names = (*INHERITED_VARIABLES, *self.passed_environment)
        environment = {name: os.environ[name] for name in names if name in os.environ}
        environment |= {
            **given,
            "PATH": path_variable(project),
            "HOME": str(folder.home),
            "TMPDIR": str(folder.temporary),
            "CONTROL_PLANE_PROJECT_FOLDER": str(project.folder),
        }
        return environment


def compiled_shim(folder: Path) -> Path:
    """Put the compiled shim into a folder: compiling takes as long as all the rest of its start.

    Only good for an interpreter of this process's own version.
    """
    source = Path(shim.__file__)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    target = folder / f"shim-{digest}.pyc"
    # Written atomically: another process may be using it.
    py_compile.compile(str(source), str(target), doraise=True, optimize=0)
    return target


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

"""The start of one worker: it is adopted, forked from a warm parent, or launched."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from core.bundles import digest_of
from provisioners.base import ProvisionerError, WorkerRecord, WorkerRequest
from provisioners.code.project import Project, open_project
from provisioners.process.folder import WorkerFolder
from provisioners.process.launch import Launcher, Reaper
from provisioners.process.record import record_of
from provisioners.process.warm.parents import WarmParents


class WorkerStart:
    """One call of `provision`.

    Args:
        request: what is asked for.
        folder: of the worker.
        project: the code, if it is known already.
        launcher: starts shims.
        warm: forks shims; None where there are no warm starts.
        reaper: gets the pid of a shim that was started.

    Attributes:
        project: the code, as soon as it is known; None if there is nothing to start any more.
    """

    def __init__(
        self,
        request: WorkerRequest,
        folder: WorkerFolder,
        *,
        project: Project | None,
        launcher: Launcher,
        warm: WarmParents | None,
        reaper: Reaper,
    ) -> None:
        self.project = project
        self._request = request
        self._folder = folder
        self._launcher = launcher
        self._warm = warm
        self._reaper = reaper
        self._loop = asyncio.get_running_loop()
        # A forked one that has died before it was on its feet is started cold.
        self._tried_warm = False
        self._launched = False

    def adopt_or_launch(self) -> WorkerRecord | None:
        """Give the worker as it is or was; None: it is being started, ask again soon. In a thread.

        Raises:
            ProvisionerError: it cannot be started now.
            UnrecoverableProvisioningError: it never can be; the text says why.
        """
        request, folder = self._request, self._folder
        try:
            folder.create()
            lock = folder.try_lock()
        except OSError as error:
            message = f"The folder {folder.path} cannot be written: {error.strerror}"
            raise ProvisionerError(message) from error
        try:
            started = folder.started()
            if started is not None:
                return record_of(request.execution_id, folder, started.shim)
            if lock is None:
                return None
            if folder.is_closed():
                return record_of(request.execution_id, folder, None)
            if self._launched:
                raise ProvisionerError(f"The worker's shim has failed: {_tail(folder.shim_log)}")
            if self.project is None:
                self.project = _open(request.docker_image)
            pid = None
            if self._warm is not None and not self._tried_warm:
                self._tried_warm = True
                pid = self._warm.start_worker(request, self.project, folder, lock=lock)
                # A forked one that was given up may just have come up.
                started = folder.started() if pid is None else None
                if started is not None:
                    return record_of(request.execution_id, folder, started.shim)
            if pid is None:
                pid = self._launcher.launch(request, self.project, folder, lock)
                self._launched = True
        except OSError as error:
            raise ProvisionerError(f"The worker cannot be started: {error}") from error
        finally:
            if lock is not None:
                os.close(lock)
        # A forked one becomes a child of this process when its parent dies, if this one is init.
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self._reaper.watch, pid)
        return None


def _open(docker_image: str) -> Project:
    if digest_of(docker_image) is not None:
        raise ProvisionerError("The worker's folder has just been deleted")
    return open_project(docker_image)


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1][:500] if lines else "it left no message"

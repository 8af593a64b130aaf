"""The start of one worker: it is adopted, forked from a warm parent, or launched."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from provisioners.base import ProvisionerError, WorkerRecord, WorkerRequest
from provisioners.code.project import Project
from provisioners.files import read_regular_file
from provisioners.process.folder import WorkerFolder
from provisioners.process.launch import Launcher, Reaper
from provisioners.process.record import record_of
from provisioners.process.scratch import Scratch
from provisioners.process.warm.parents import WarmParents


class WorkerStart:
    """One call of `provision`.

    Args:
        request: what is asked for.
        folder: of the worker.
        scratch: what the worker may write to.
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
        scratch: Scratch,
        *,
        project: Project | None,
        launcher: Launcher,
        warm: WarmParents | None,
        reaper: Reaper,
    ) -> None:
        self.project = project
        self._request = request
        self._folder = folder
        self._scratch = scratch
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
                raise ProvisionerError("The worker's folder has just been deleted")
            pid = None
            if self._warm is not None and not self._tried_warm:
                self._tried_warm = True
                pid = self._warm.start_worker(
                    request, self.project, folder, self._scratch, lock=lock
                )
                # Also one that was given up may just have come up.
                started = folder.started()
                if started is not None:
                    return record_of(request.execution_id, folder, started.shim)
            if pid is None:
                pid = self._launcher.launch(request, self.project, folder, self._scratch, lock)
                self._launched = True
        except OSError as error:
            raise ProvisionerError(f"The worker cannot be started: {error}") from error
        finally:
            if lock is not None:
                os.close(lock)
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self._reaper.watch, pid)
        return None


def _tail(path: Path) -> str:
    try:
        lines = read_regular_file(path, limit=2**16).decode(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1][:500] if lines else "it left no message"

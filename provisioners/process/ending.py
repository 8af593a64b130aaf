"""Ends of workers, not of invocations: how one has ended, and the removal of what is left."""

import os
import time
from contextlib import suppress
from pathlib import Path

from core.states import Cause
from provisioners.base import Exited, ProvisionerError, Running, Unknown, WorkerObservation
from provisioners.files import delete_tree
from provisioners.process.cgroups import processes_in, remove
from provisioners.process.folder import StartRecord, WorkerFolder
from provisioners.process.identity import (
    ProcessIdentity,
    is_alive,
    kill_matching,
    with_environment,
    without_zombies,
)
from provisioners.process.scratch import Scratch

_CLEANUP_SECONDS = 2.0
_IN_USE_SECONDS = 1.0


def settle(
    folder: WorkerFolder, scratch: Scratch, shim: ProcessIdentity | None
) -> WorkerObservation:
    """Find out how a worker is, and clear away what a killed shim left of it.

    Args:
        folder: the worker's folder, which may not exist.
        scratch: what the worker could write to.
        shim: the worker's shim, for the case that it does not.
    """
    try:
        lock = folder.try_lock()
    except FileNotFoundError:
        return _judge_without_files(shim, "its folder is gone")
    if lock is None:
        return Running()
    try:
        started = folder.started()
        if started is None:
            return _judge_without_files(shim, "it was ended before it had started")
        return folder.ended() or _clear_away(folder, scratch, started)
    finally:
        os.close(lock)


def _judge_without_files(shim: ProcessIdentity | None, otherwise: str) -> Exited | Unknown:
    if shim is None:
        # Without a cause: the registry knows why it was ended.
        return Exited(detail=otherwise)
    if is_alive(shim):
        return Unknown(detail="its folder was deleted, but its process runs")
    return Exited(cause=Cause.WORKER_LOST, detail="its folder was deleted")


def _clear_away(folder: WorkerFolder, scratch: Scratch, started: StartRecord) -> Exited | Unknown:
    # The kernel kills the program together with the shim. Its children are found by their cgroup,
    # or, where there is none, by variables that all of them inherit.
    # The last is of workers that were started before there were scratch folders.
    marks = (*scratch.marks(), f"HOME={folder.path}/home")

    def find() -> list[int]:
        return [*without_zombies(processes_in(started.cgroups)), *with_environment(*marks)]

    if not kill_matching(find, within=_CLEANUP_SECONDS):
        return Unknown(detail="its shim was killed, and its processes cannot be")
    remove(started.cgroups)
    reason = "its shim was killed, or the machine was restarted"
    # On a full disk it is found out again at the next call.
    with suppress(OSError):
        folder.record_loss(reason)
    return Exited(cause=Cause.WORKER_LOST, detail=reason)


def discard(folder: WorkerFolder, scratch: Scratch, *, trash: Path, cgroups: list[Path]) -> None:
    """Delete the folders of a worker that is gone, and its cgroups; fine if there are none.

    A call that looks at it at this moment is waited for, up to a second.

    Raises:
        ProvisionerError: the worker still runs, or is in use for longer.
    """
    until = time.monotonic() + _IN_USE_SECONDS
    try:
        while (lock := folder.try_lock()) is None and time.monotonic() < until:
            time.sleep(0.02)
    except FileNotFoundError:
        return
    if lock is None:
        raise ProvisionerError(f"The worker {folder.path.name} is still in use")
    try:
        started = folder.started()
        remove([*cgroups, *(started.cgroups if started else [])])
        # In one step each, so that no later call finds half a folder; and the one last by which
        # the other is found.
        discarded = trash / f"{folder.path.name}-{os.urandom(8).hex()}"
        scratch_discarded = discarded.with_suffix(".scratch")
        with suppress(FileNotFoundError):
            scratch.path.rename(scratch_discarded)
        folder.path.rename(discarded)
    finally:
        os.close(lock)
    for path in (discarded, scratch_discarded):
        delete_tree(path)

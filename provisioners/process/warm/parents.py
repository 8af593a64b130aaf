"""Warm starts: parents that have imported a function's modules, and fork its workers.

A parent (`programs.parent_program`, below `programs.keeper`) is started beside the first worker of
a function whose project asks for it, and used from the next one on. Each belongs to this process
and ends with it; there is nothing to be found again. Whatever goes wrong, the worker starts cold.
"""

import asyncio
import json
import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from provisioners.base import ProvisionerError, ResourceSpec, WorkerRequest
from provisioners.code.project import Project, interpreter_of
from provisioners.code.sdk import runner_in
from provisioners.files import delete_tree
from provisioners.process.folder import WorkerFolder
from provisioners.process.launch import EVERY_SIGNAL, Launcher, Reaper
from provisioners.process.programs import keeper, parent_program
from provisioners.process.scratch import Scratch, Scratches
from provisioners.process.warm.handle import (
    NoWarmStartError,
    WarmParent,
    clear_away,
    until_ready,
    watch_for_end,
)

CGROUP_PREFIX = "warm-"
_REMEMBERED_SECONDS = 600.0
"""For so long it is not tried again to make a parent of what cannot be forked."""
_SPACE_BYTES = 64 * 2**10
_KNOWN_BEFORE = ("PROJECT_NAME", "VERSION_ID", "FUNCTION_NAME", "API_URL")
"""Variables (with either prefix) that are the same for all workers of a function."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class WarmLimits:
    """What the operator decides about warm parents."""

    parents: int = 16
    """At most so many at the same time, in this process; 0: every worker starts cold."""
    idle_seconds: float = 300
    """A parent ends when it was not used for so long."""
    age_seconds: float = 3600
    """A parent ends when it is so old, and another takes its place."""
    import_seconds: float = 60
    """Time that the import may take."""


@dataclass(frozen=True, kw_only=True)
class _Key:
    """What the workers of one parent have in common."""

    project_name: str
    version_id: str
    function_name: str
    docker_image: str
    resource_spec: ResourceSpec
    project: Project

    @classmethod
    def of(cls, request: WorkerRequest, project: Project) -> "_Key":
        return cls(
            project_name=request.project_name,
            version_id=request.version_id,
            function_name=request.function_name,
            docker_image=request.docker_image,
            resource_spec=request.resource_spec,
            project=project,
        )


class WarmParents:
    """The parents of this process.

    Args:
        folder: holds the parents' folders.
        scratches: hold what the parents may write to.
        trash: on the same file system; emptied at the next start.
        launcher: knows what workers get.
        limits: how many, and for how long.
        reaper: gets the pids of keepers.
    """

    def __init__(
        self,
        folder: Path,
        scratches: Scratches,
        *,
        trash: Path,
        launcher: Launcher,
        limits: WarmLimits,
        reaper: Reaper,
    ) -> None:
        self._all = folder
        self._scratches = scratches
        self._reaper = reaper
        self._folder = folder
        self._trash = trash
        self._launcher = launcher
        self._limits = limits
        self._parents: dict[_Key, WarmParent | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused: dict[_Key, float] = {}
        self._unfinished: list[WorkerFolder] = []
        self._lock = -1
        self._closing = False

    def get_ready(self) -> None:
        """Make the folder, and clear away what other processes have left in theirs."""
        self._all.mkdir(mode=0o700, exist_ok=True)
        for leftover in self._all.iterdir():
            self._clear_after_another(WorkerFolder(leftover))
        while self._lock < 0:
            # Another process may take it for one that was left behind, until it is locked.
            self._folder = self._all / secrets.token_hex(8)
            self._folder.mkdir(mode=0o700)
            with suppress(FileNotFoundError):
                lock = WorkerFolder(self._folder).try_lock()
                self._lock = -1 if lock is None else lock

    async def close(self) -> None:
        """End all parents; workers run on."""
        self._closing = True
        for parent in self._parents.values():
            if parent is not None:
                parent.over.set()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
            await asyncio.to_thread(self._clear_after_another, WorkerFolder(self._folder))

    def count(self) -> int:
        """Say how many parents there are, those that still import among them."""
        return len(self._parents)

    def is_ready_for(self, request: WorkerRequest, project: Project) -> bool:
        """Say whether the next worker of this function would be forked."""
        parent = self._parents.get(_Key.of(request, project))
        return parent is not None and parent.ready

    def want(self, request: WorkerRequest, project: Project) -> None:
        """Have a parent for the next worker of this function, if there may be one. On the loop."""
        key = _Key.of(request, project)
        if self._closing or not project.warm or key in self._parents:
            return
        now = time.monotonic()
        self._refused = {
            other: at for other, at in self._refused.items() if now - at < _REMEMBERED_SECONDS
        }
        of_version = sum(other.version_id == key.version_id for other in self._parents)
        if (
            key in self._refused
            or of_version >= project.warm
            or len(self._parents) >= self._limits.parents
        ):
            return
        self._parents[key] = None
        task = asyncio.create_task(self._keep(key, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def start_worker(
        self,
        request: WorkerRequest,
        project: Project,
        folder: WorkerFolder,
        scratch: Scratch,
        *,
        lock: int,
    ) -> int | None:
        """Fork a worker, and give its shim's pid. In any thread.

        Returns:
            None, if none is there: unless worker.json tells of one, it has to start cold.

        Raises:
            ProvisionerError: it has neither started nor can be started now.
            OSError: a cgroup cannot be made.
        """
        parent = self._parents.get(_Key.of(request, project))
        if parent is None or not parent.ready or parent.over.is_set():
            return None
        parent.used = time.monotonic()
        message = {
            "arguments": self._launcher.shim_arguments(request, project, folder, scratch),
            "environment": self._launcher.environment(
                request, request.environment, project, scratch
            ),
        }
        try:
            return parent.start_worker(message, lock=lock)
        except NoWarmStartError as error:
            parent.give_up(error)
            return None
        except ProvisionerError as error:
            parent.give_up(error)
            raise

    async def _keep(self, key: _Key, request: WorkerRequest) -> None:
        """Keep one parent, from its start to its end."""
        log = _log.bind(
            project_name=request.project_name,
            version_id=request.version_id,
            function_name=request.function_name,
        )
        parent: WarmParent | None = None
        try:
            parent = await asyncio.to_thread(self._make, key, request, asyncio.get_running_loop())
            self._parents[key] = parent
            if self._closing:
                return
            self._spawn(key, request, parent)
            await until_ready(parent, seconds=self._limits.import_seconds)
            if parent.ready:
                log.info("warm_parent_ready", seconds=round(parent.used - parent.began, 3))
            with watch_for_end(parent):
                await self._until_over(parent)
        except OSError as error:
            log.warning("warm_starts_refused", reason=f"no parent can be started: {error}")
            self._refused[key] = time.monotonic()
        finally:
            if parent is not None:
                parent.ready = False
                await asyncio.to_thread(self._finish, parent)
                if parent.lasting:
                    self._refused[key] = time.monotonic()
                    log.warning("warm_starts_refused", reason=parent.reason)
                else:
                    log.info("warm_parent_ended", workers=parent.starts, reason=parent.reason)
            del self._parents[key]

    def _make(
        self, key: _Key, request: WorkerRequest, loop: asyncio.AbstractEventLoop
    ) -> WarmParent:
        folder = WorkerFolder(self._folder / f"{CGROUP_PREFIX}{secrets.token_hex(8)}")
        folder.create()
        scratch = self._scratches.of(folder.path.name)
        scratch.create(self._launcher.confiner.user_of(request.project_name))
        cgroups = self._launcher.cgroups.create(folder.path.name, key.resource_spec)
        return WarmParent(folder, scratch, cgroups, loop)

    def _spawn(self, key: _Key, request: WorkerRequest, parent: WarmParent) -> None:
        launcher, project, scratch = self._launcher, key.project, parent.scratch
        if launcher.sdk_home is None:
            raise FileNotFoundError("the SDK is not installed")
        options = {
            "sdk_home": str(launcher.sdk_home),
            "runner": str(runner_in(launcher.sdk_home)),
            "function": key.function_name,
            "project": str(project.folder),
        }
        known = {
            name: value
            for name, value in request.environment.items()
            if name.startswith(("CONTROL_PLANE_", "MULTINODE_")) and name.endswith(_KNOWN_BEFORE)
        }
        environment = launcher.environment(request, known, project, scratch)
        environment[parent_program.SPACE] = "-" * _SPACE_BYTES
        keeper_options = {
            "environment": environment,
            "command": [
                *interpreter_of(project, python=launcher.python),
                str(launcher.programs / "parent_program.py"),
                json.dumps(options),
            ],
            "folder": str(parent.folder.path),
            "work": str(scratch.work),
            "cgroups": [str(cgroup) for cgroup in parent.cgroups],
            "data_limit": launcher.data_limit(key.resource_spec),
            "confinement": launcher.confinement(request.project_name, project, scratch),
        }
        python = str(launcher.python)
        pid = os.posix_spawn(
            python,
            [python, "-I", "-S", launcher.program("keeper")],
            {},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, parent.their_output, 1),
                (os.POSIX_SPAWN_DUP2, parent.their_output, 2),
                (os.POSIX_SPAWN_DUP2, parent.their_control, keeper.CONTROL_DESCRIPTOR),
                (os.POSIX_SPAWN_DUP2, parent.output, keeper.OUTPUT_DESCRIPTOR),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=EVERY_SIGNAL,
        )
        self._reaper.watch(pid)
        parent.control.send(json.dumps(keeper_options).encode())
        parent.close_their_ends()

    async def _until_over(self, parent: WarmParent) -> None:
        limits = self._limits
        oldest = parent.began + limits.age_seconds
        while not parent.over.is_set():
            remaining = min(parent.used + limits.idle_seconds, oldest) - time.monotonic()
            if remaining <= 0:
                if time.monotonic() >= oldest:
                    parent.reason = "it was old"
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(remaining):
                    await parent.over.wait()

    def _finish(self, parent: WarmParent) -> None:
        """End a parent, and delete what no worker uses any more of this and of earlier ones."""
        parent.end()
        self._unfinished = [
            folder for folder in (*self._unfinished, parent.folder) if not self._delete(folder)
        ]

    def _delete(self, folder: WorkerFolder) -> bool:
        """Delete a folder that is not locked; False if a worker has locked it."""
        try:
            lock = folder.try_lock()
        except FileNotFoundError:
            return True
        if lock is None:
            return False
        target = self._trash / f"{folder.path.name}-{secrets.token_hex(8)}"
        scratch_target = target.with_suffix(".scratch")
        with suppress(OSError):
            self._scratches.of(folder.path.name).path.rename(scratch_target)
        with suppress(OSError):
            folder.path.rename(target)
        os.close(lock)
        for path in (scratch_target, target):
            delete_tree(path)
        return True

    def _clear_after_another(self, owner: WorkerFolder) -> None:
        """Clear away the parents of a process that has ended, or of this one at its end."""
        with suppress(OSError):
            lock = owner.try_lock()
            if lock is None:
                return
            try:
                for path in owner.path.iterdir():
                    if path.is_dir():
                        clear_away(
                            self._scratches.of(path.name),
                            self._launcher.cgroups.folders_of(path.name),
                        )
                        self._delete(WorkerFolder(path))
                if [entry.name for entry in owner.path.iterdir()] == ["lock"]:
                    delete_tree(owner.path)
            finally:
                os.close(lock)

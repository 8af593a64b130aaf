"""The process provisioner: each worker is a local process, Linux only.

Every worker has a folder of its own (`folder`) and a parent process of its own, the shim
(`shim`), which goes on without the Temporal worker. The lock on the folder, held by the
shim, says whether the worker runs; so all that this class knows can be found again by the next
process with the same state folder. To keep workers over a restart, a service manager must end only
the Temporal worker itself (systemd: `KillMode=process`).
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Self, TypeVar, TypeVarTuple

import structlog

from core.bundles import BundleSource, digest_of
from core.ids import ExecutionId
from provisioners.base import (
    Exited,
    FunctionToPrepare,
    LogPage,
    PreparedFunction,
    Provisioner,
    ProvisionerError,
    Running,
    Unknown,
    UnrecoverableProvisioningError,
    WorkerObservation,
    WorkerRecord,
    WorkerRequest,
)
from provisioners.code.confined import FactsReader
from provisioners.code.environments import Environments
from provisioners.code.folders import BundleFolders
from provisioners.code.local import LocalFolders
from provisioners.code.project import Project
from provisioners.code.sdk import base_python, installed_sdk
from provisioners.process.cgroups import Cgroups, find_cgroups, remove
from provisioners.process.config import ProcessProvisionerConfig
from provisioners.process.confinement.confiner import Confiner
from provisioners.process.confinement.published import publish_programs, publish_sdk
from provisioners.process.confinement.users import WorkerUsers, why_not_other_users
from provisioners.process.ending import discard, settle
from provisioners.process.folder import WorkerFolder
from provisioners.process.identity import ProcessIdentity, end_of, send_to
from provisioners.process.launch import Launcher, Reaper
from provisioners.process.logs import OutputSizes, read_page, size_of
from provisioners.process.record import elsewhere, shim_in
from provisioners.process.start import WorkerStart
from provisioners.process.state_folder import StateFolder
from provisioners.process.warm.parents import CGROUP_PREFIX, WarmParents

KILL_MARGIN_SECONDS = 5.0
"""How long after the deadline a shim may take to end its worker, before it is killed itself."""
_START_SECONDS = 15.0
_THREADS = 8

_log = structlog.get_logger(__name__)

_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")


class ProcessProvisioner(Provisioner):
    """Runs workers as local processes.

    The image of a function is a code bundle, `bundle://<digest>`, or a folder of this machine,
    `file:///absolute/folder`.
    """

    kind: ClassVar[str] = "process"

    def __init__(self, config: ProcessProvisionerConfig) -> None:
        self._config = config
        self._root = Path(os.path.abspath(config.state_folder))  # noqa: PTH100 - keeps links
        self._reaper = Reaper()
        self._output = OutputSizes()
        self._parts: _Parts | None = None
        # Of their own: whatever holds up starts and installations, workers are observed and ended.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="observe")

    @classmethod
    def from_environment(cls, *, data_folder: Path | None = None) -> Self:
        """Read `ProcessProvisionerConfig`; its usual state folder is `workers` in `data_folder`."""
        usual = None if data_folder is None else data_folder / "workers"
        return cls(ProcessProvisionerConfig.from_environment(usual_state_folder=usual))

    async def start(self, deployment: str, bundles: BundleSource) -> None:
        """Check the machine, make the state folder, remove what earlier processes left.

        Raises:
            UnrecoverableProvisioningError: this machine cannot run workers; the text says why.
        """
        if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
            raise UnrecoverableProvisioningError(
                "The process provisioner needs Linux 5.3 or later: it relies on pidfd, /proc and "
                f"subreapers. This is {sys.platform}"
            )
        folder = StateFolder(root=self._root, deployment=deployment)
        self._parts = await asyncio.to_thread(self._make_parts, bundles, folder)

    async def close(self) -> None:
        """Let go of the workers, which run on."""
        parts = self._parts
        if parts is not None:
            if parts.warm is not None:
                await parts.warm.close()
            await parts.code.close()
            parts.reader.close()
        self._reaper.close()
        self._threads.shutdown(wait=False)
        if parts is not None:
            parts.launcher.cgroups.release()

    async def prepare(self, function: FunctionToPrepare) -> PreparedFunction:
        """Fetch the code, install what it depends on, check that it names a program."""
        parts = self._started()
        digest = digest_of(function.docker_image)
        if digest is None:
            project = await parts.local.open(function.docker_image)
        else:
            project = await parts.code.open(function.project_name, function.version_id, digest)
        await asyncio.to_thread(parts.launcher.check, function.project_name, project)
        return PreparedFunction()

    async def provision(self, request: WorkerRequest) -> WorkerRecord:
        """Start the worker's shim, or adopt the one that runs or has run."""
        parts = self._started()
        start = WorkerStart(
            request,
            self._folder(request.execution_id),
            parts.folder.scratch(request.execution_id),
            project=await self._fetch(request),
            launcher=parts.launcher,
            warm=parts.warm,
            reaper=self._reaper,
        )
        loop = asyncio.get_running_loop()
        end = loop.time() + _START_SECONDS
        pause = 0.004
        while loop.time() < end:
            # In a thread, and therefore to its end even if this call is cancelled.
            record = await asyncio.to_thread(start.adopt_or_launch)
            if record is not None:
                if parts.warm is not None and start.project is not None:
                    parts.warm.want(request, start.project)
                return record
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        raise ProvisionerError("The worker's shim has not come up in time")

    async def _fetch(self, request: WorkerRequest) -> Project | None:
        """Make the code bundle's folder, if it is not there any more; None if it is not needed."""
        folder = self._folder(request.execution_id)
        # Only if there is no worker may a project that cannot be run end the execution.
        if folder.started() is not None or folder.is_closed() or folder.is_locked():
            return None
        parts = self._started()
        digest = digest_of(request.docker_image)
        if digest is None:
            return await parts.local.open(request.docker_image)
        return await parts.code.open(request.project_name, request.version_id, digest)

    async def observe(self, worker: WorkerRecord) -> WorkerObservation:
        """Judge by the lock and the files in the worker's folder."""
        other_machine = elsewhere(worker)
        if other_machine is not None:
            return Unknown(detail=other_machine)
        folder = self._folder(worker.execution_id)
        if folder.is_locked():
            return Running()
        scratch = self._started().folder.scratch(worker.execution_id)
        return await self._in_thread(settle, folder, scratch, shim_in(worker))

    async def wait(self, worker: WorkerRecord, *, timeout: float) -> WorkerObservation:
        """Wait for the end of the shim, and look at the size of the output meanwhile."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        folder = self._folder(worker.execution_id)
        pause = 0.1
        async with end_of(self._shim_of(worker.execution_id, worker)) as gone:
            while True:
                observation = await self.observe(worker)
                if isinstance(observation, Exited):
                    return observation
                if isinstance(observation, Running) and self._output.has_grown(
                    worker.execution_id, folder.output
                ):
                    return observation
                remaining = end - loop.time()
                if remaining <= 0:
                    return observation
                if gone.is_set():
                    # The lock is about to be free: another call looks at it at this moment.
                    await asyncio.sleep(0.01)
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(pause, remaining)):
                        await gone.wait()
                pause = min(pause * 1.5, 0.5)

    async def terminate(
        self, execution_id: ExecutionId, worker: WorkerRecord | None, *, grace: float
    ) -> Exited:
        """Put up the tombstone, ask the shim to end the worker, and end it without the shim."""
        other_machine = elsewhere(worker) if worker else None
        if other_machine is not None:
            raise ProvisionerError(other_machine)
        loop = asyncio.get_running_loop()
        folder = self._folder(execution_id)
        scratch = self._started().folder.scratch(execution_id)
        deadline = await self._in_thread(_close_folder, folder, grace)
        # asyncio's clock is the monotonic clock, as in the tombstone.
        for number, until in (
            (signal.SIGTERM, deadline + KILL_MARGIN_SECONDS),
            (signal.SIGKILL, max(deadline, loop.time()) + 2 * KILL_MARGIN_SECONDS),
        ):
            asked: ProcessIdentity | None = None
            while True:
                observation = await self._in_thread(settle, folder, scratch, shim_in(worker))
                if isinstance(observation, Exited):
                    self._output.drop(execution_id)
                    return observation
                remaining = until - loop.time()
                if remaining <= 0:
                    break
                its_shim = self._shim_of(execution_id, worker)
                if its_shim is not None and its_shim != asked:
                    send_to(its_shim, number)
                    asked = its_shim
                pause = 0.02 if its_shim is None else 0.5
                async with end_of(its_shim) as gone:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(min(remaining, pause)):
                            await gone.wait()
                    if gone.is_set():
                        await asyncio.sleep(0.002)
        raise ProvisionerError(f"The end of the worker {execution_id} cannot be confirmed")

    async def read_logs(self, worker: WorkerRecord, *, offset: str, ended: bool) -> LogPage:
        """Read the output file."""
        path = self._folder(worker.execution_id).output
        size = size_of(path)
        page = await self._in_thread(
            partial(
                read_page,
                path,
                offset=offset,
                ended=ended,
                max_line_bytes=self._config.max_line_bytes,
            )
        )
        self._output.note_page(worker.execution_id, page, offset=offset, size=size)
        return page

    async def list_workers(self) -> list[ExecutionId]:
        """List the workers' folders."""
        return await self._in_thread(self._started().folder.list_workers)

    async def forget(self, execution_id: ExecutionId) -> None:
        """Delete a worker's folder.

        Raises:
            ProvisionerError: the worker still runs, or is in use for more than a second.
        """
        self._output.drop(execution_id)
        parts = self._started()
        cgroups = parts.launcher.cgroups.folders_of(execution_id)
        await self._in_thread(
            partial(
                discard,
                self._folder(execution_id),
                parts.folder.scratch(execution_id),
                trash=parts.folder.trash,
                cgroups=cgroups,
            )
        )

    def _make_parts(self, bundles: BundleSource, folder: StateFolder) -> "_Parts":
        config = self._config
        folder.get_ready()
        python = config.python or base_python()
        users, uids = self._make_users(folder), config.worker_uids
        confiner = Confiner(users=users, deployment=folder.deployment)
        reader = FactsReader()
        environments = Environments(
            python=python,
            build_seconds=config.build_seconds,
            uv=config.uv,
            allow_builds=config.allow_builds,
            reader=reader,
        )
        code = BundleFolders(
            folder.code,
            bundles,
            trash=folder.trash,
            python=python,
            reader=reader,
            environments=environments,
            keep_seconds=config.keep_code_seconds,
            give=confiner.give_code,
        )
        code.get_ready()
        package = installed_sdk()
        launcher = Launcher(
            python=python,
            programs=publish_programs(folder.root),
            compiled=config.python is None,
            sdk_home=publish_sdk(folder.root, package) if package else None,
            confiner=confiner,
            cgroups=find_cgroups(folder.stack_name) if config.use_cgroups else Cgroups(),
            log_limit_bytes=config.log_limit_bytes,
            passed_environment=config.passed_environment,
        )
        cgroups = launcher.cgroups
        for name in cgroups.names():
            if name.startswith(CGROUP_PREFIX):
                continue
            if not WorkerFolder(folder.workers / name).is_locked():
                remove(cgroups.folders_of(name))
        warm = None
        if config.warm.parents:
            warm = WarmParents(
                folder.warm,
                folder.scratches,
                trash=folder.trash,
                launcher=launcher,
                limits=config.warm,
                reaper=self._reaper,
            )
            warm.get_ready()
        _log.info(
            "process_provisioner_ready",
            workers_user=f"one of {uids.first} to {uids.last} for each project"
            if users
            else "the server's own",
            memory_limit=cgroups.describe("memory") or "RLIMIT_DATA, for each process by itself",
            cpu_limit=cgroups.describe("cpu") or "not enforced",
            process_limit=cgroups.describe("pids") or "not enforced",
            sdk=str(package) if package else "not installed: only projects with a command can run",
        )
        return _Parts(
            folder=folder,
            reader=reader,
            code=code,
            local=LocalFolders(reader, closed=folder.root),
            launcher=launcher,
            warm=warm,
        )

    def _make_users(self, folder: StateFolder) -> WorkerUsers | None:
        """Give what knows the workers' users; None, with a warning, where they are root."""
        uids = self._config.worker_uids
        reason = why_not_other_users(uids)
        if self._config.workers_as_root:
            reason = "PROCESS_WORKERS_AS_ROOT is set"
        if reason is None:
            users = WorkerUsers(folder.users, uids)
            users.get_ready()
            return users
        if os.geteuid() == 0:
            _log.warning(
                "workers_are_root", reason=reason, effect="a function can do all that root can"
            )
        return None

    async def _in_thread(
        self, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments
    ) -> _Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *arguments)

    def _started(self) -> "_Parts":
        if self._parts is None:
            raise ProvisionerError("The process provisioner has not been started")
        return self._parts

    def _folder(self, execution_id: ExecutionId) -> WorkerFolder:
        return self._started().folder.worker(execution_id)

    def _shim_of(
        self, execution_id: ExecutionId, worker: WorkerRecord | None
    ) -> ProcessIdentity | None:
        started = self._folder(execution_id).started()
        return started.shim if started else shim_in(worker)


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What `start` has made."""

    folder: StateFolder
    reader: FactsReader
    code: BundleFolders
    local: LocalFolders
    launcher: Launcher
    warm: WarmParents | None
    """None where there are no warm starts."""


def _close_folder(folder: WorkerFolder, grace: float) -> float:
    try:
        folder.create()
        return folder.close(grace=grace)
    except OSError as error:
        message = f"The folder {folder.path} cannot be written: {error.strerror}"
        raise ProvisionerError(message) from error

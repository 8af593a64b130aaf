"""The process provisioner: each worker is a local process, Linux only.

Every worker has a folder of its own (`folder`) and a parent process of its own, the shim
(`shim`), which goes on without the Temporal worker. The lock on the folder, held by the
shim, says whether the worker runs; so all that this class knows can be found again by the next
process with the same state folder. To keep workers over a restart, a service manager must end only
the Temporal worker itself (systemd: `KillMode=process`).
"""

import asyncio
import hashlib
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import structlog

from core.bundles import BundleSource, digest_of
from core.ids import ExecutionId
from provisioners.base import (
    Exited,
    FunctionToPrepare,
    LogPage,
    Prepared,
    Provisioner,
    ProvisionerError,
    Running,
    Unknown,
    UnrecoverableProvisioningError,
    WorkerObservation,
    WorkerRecord,
    WorkerRequest,
)
from provisioners.code.environments import Environments
from provisioners.code.folders import BundleFolders
from provisioners.code.project import Project, open_project
from provisioners.code.sdk import base_python, compile_sdk, installed_sdk, link_sdk
from provisioners.files import delete_tree
from provisioners.process import shim
from provisioners.process.cgroups import Cgroups, find_cgroups, remove
from provisioners.process.config import ProcessProvisionerConfig
from provisioners.process.ending import discard, settle
from provisioners.process.folder import WorkerFolder
from provisioners.process.identity import ProcessIdentity, boot_id, open_pidfd, send
from provisioners.process.launch import Launcher, Reaper, compiled_shim
from provisioners.process.logs import PAGE_BYTES, PAGE_LINES, read_page
from provisioners.process.warm.parents import CGROUP_PREFIX, WarmParents

KILL_MARGIN_SECONDS = 5.0
"""How long after the deadline a shim may take to end its worker, before it is killed itself."""
_START_SECONDS = 15.0

_log = structlog.get_logger(__name__)


class ProcessProvisioner(Provisioner):
    """Runs workers as local processes.

    The image of a function is a code bundle, `bundle://<digest>`, or a folder of this machine,
    `file:///absolute/folder`.
    """

    kind: ClassVar[str] = "process"

    def __init__(self, config: ProcessProvisionerConfig) -> None:
        self._config = config
        self._state_folder = Path(os.path.abspath(config.state_folder))  # noqa: PTH100 - keeps links
        self._deployment: str | None = None
        self._launcher: Launcher | None = None
        self._reaper = Reaper()
        self._output_seen: dict[ExecutionId, int] = {}
        self._code: BundleFolders | None = None
        self._warm: WarmParents | None = None

    @classmethod
    def from_environment(cls) -> Self:
        """Read `config.ProcessProvisionerSettings`."""
        return cls(ProcessProvisionerConfig.from_environment())

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
        self._deployment = deployment
        await asyncio.to_thread(self._get_ready, bundles)

    async def close(self) -> None:
        """Let go of the workers, which run on."""
        if self._warm is not None:
            await self._warm.close()
        if self._code is not None:
            await self._code.close()
        self._reaper.close()
        if self._launcher is not None:
            self._launcher.cgroups.release()

    async def prepare(self, function: FunctionToPrepare) -> Prepared:
        """Fetch the code, install what it depends on, check that it names a program."""
        launcher = self._ready()
        digest = digest_of(function.docker_image)
        if digest is None:
            project = await asyncio.to_thread(open_project, function.docker_image)
        else:
            project = await self._code_folders().open(function.version_id, digest)
        await asyncio.to_thread(launcher.check, project)
        return Prepared()

    async def provision(self, request: WorkerRequest) -> WorkerRecord:
        """Start the worker's shim, or adopt the one that runs or has run."""
        project = await self._fetch(request)
        start = _Start(loop=asyncio.get_running_loop(), project=project)
        end = start.loop.time() + _START_SECONDS
        pause = 0.004
        while start.loop.time() < end:
            # In a thread, and therefore to its end even if this call is cancelled.
            record = await asyncio.to_thread(self._adopt_or_launch, request, start)
            if record is not None:
                if self._warm is not None and start.project is not None:
                    self._warm.want(request, start.project)
                return record
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        raise ProvisionerError("The worker's shim has not come up in time")

    async def _fetch(self, request: WorkerRequest) -> Project | None:
        """Make the code bundle's folder, if it is not there any more; None if it is not needed."""
        digest = digest_of(request.docker_image)
        if digest is None:
            return None
        folder = self._folder(request.execution_id)
        if folder.started() is not None or folder.is_closed():
            return None
        return await self._code_folders().open(request.version_id, digest)

    async def observe(self, worker: WorkerRecord) -> WorkerObservation:
        """Judge by the lock and the files in the worker's folder."""
        elsewhere = _elsewhere(worker)
        if elsewhere is not None:
            return Unknown(detail=elsewhere)
        folder = self._folder(worker.execution_id)
        if folder.is_locked():
            return Running()
        return await asyncio.to_thread(settle, folder, _identity(worker))

    async def wait(self, worker: WorkerRecord, *, timeout: float) -> WorkerObservation:
        """Wait for the end of the shim, and look at the size of the output meanwhile."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        pause = 0.1
        async with _end_of(self._shim_of(worker.execution_id, worker)) as gone:
            while True:
                observation = await self.observe(worker)
                if isinstance(observation, Exited):
                    return observation
                if isinstance(observation, Running) and self._output_has_grown(worker.execution_id):
                    return observation
                remaining = end - loop.time()
                if remaining <= 0:
                    return observation
                if gone.is_set():
                    # The lock is about to be free: somebody else looks at it at this moment.
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
        elsewhere = _elsewhere(worker) if worker else None
        if elsewhere is not None:
            raise ProvisionerError(elsewhere)
        loop = asyncio.get_running_loop()
        folder = self._folder(execution_id)
        deadline = await asyncio.to_thread(self._close_folder, folder, grace)
        # asyncio's clock is the monotonic clock, as in the tombstone.
        for number, until in (
            (signal.SIGTERM, deadline + KILL_MARGIN_SECONDS),
            (signal.SIGKILL, max(deadline, loop.time()) + 2 * KILL_MARGIN_SECONDS),
        ):
            asked: ProcessIdentity | None = None
            while True:
                observation = await asyncio.to_thread(settle, folder, _identity(worker))
                if isinstance(observation, Exited):
                    self._output_seen.pop(execution_id, None)
                    return observation
                remaining = until - loop.time()
                if remaining <= 0:
                    break
                shim = self._shim_of(execution_id, worker)
                if shim is not None and shim != asked:
                    _signal(shim, number)
                    asked = shim
                async with _end_of(shim) as gone:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(min(remaining, 0.02 if shim is None else 0.5)):
                            await gone.wait()
                    if gone.is_set():
                        await asyncio.sleep(0.002)
        raise ProvisionerError(f"The end of the worker {execution_id} cannot be confirmed")

    async def read_logs(self, worker: WorkerRecord, *, offset: str, ended: bool) -> LogPage:
        """Read the output file."""
        path = self._folder(worker.execution_id).output
        size = _size(path)
        page = await asyncio.to_thread(
            read_page,
            path,
            offset=offset,
            ended=ended,
            max_line_bytes=self._config.max_line_bytes,
        )
        # After a full page `wait` must not sleep on the rest; after a partial line it must.
        position = int(page.next_offset or 0)
        full = len(page.lines) >= PAGE_LINES
        more = full or position - int(offset or 0) > PAGE_BYTES // 2
        self._output_seen[worker.execution_id] = position if more else size
        return page

    async def list_workers(self) -> list[ExecutionId]:
        """List the workers' folders."""
        return await asyncio.to_thread(self._list_folders)

    async def forget(self, execution_id: ExecutionId) -> None:
        """Delete a worker's folder.

        Raises:
            ProvisionerError: the worker still runs, or is in use for more than a second.
        """
        self._output_seen.pop(execution_id, None)
        cgroups = self._ready().cgroups.folders_of(execution_id)
        await asyncio.to_thread(
            discard, self._folder(execution_id), trash=self._trash, cgroups=cgroups
        )

    # What follows, up to `_folder`, runs in threads.

    def _get_ready(self, bundles: BundleSource) -> None:
        try:
            for folder in (self._state_folder, self._workers, self._trash):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            message = f"The state folder {self._state_folder} cannot be used: {error.strerror}"
            raise UnrecoverableProvisioningError(message) from error
        if self._state_folder.stat().st_uid != os.geteuid():
            # Whoever owns it could make us run anything; the default is in a shared folder.
            message = f"The state folder {self._state_folder} belongs to another user"
            raise UnrecoverableProvisioningError(message)
        for leftover in self._trash.iterdir():
            delete_tree(leftover)
        python = self._config.python or base_python()
        code = self._own_folder() / "code"
        self._code = BundleFolders(
            code,
            bundles,
            trash=self._trash,
            python=python,
            environments=Environments(
                code / "environments",
                python=python,
                build_seconds=self._config.build_seconds,
                uv=self._config.uv,
            ),
            keep_seconds=self._config.keep_code_seconds,
        )
        self._code.get_ready()
        own_python = self._config.python is None
        package = installed_sdk()
        if package is not None and own_python:
            compile_sdk(package)
        self._launcher = Launcher(
            python=python,
            shim=compiled_shim(self._state_folder) if own_python else Path(shim.__file__),
            sdk_home=link_sdk(self._state_folder / "sdk", package) if package else None,
            cgroups=find_cgroups(self._stack_name()) if self._config.use_cgroups else Cgroups(),
            log_limit_bytes=self._config.log_limit_bytes,
            passed_environment=self._config.passed_environment,
        )
        cgroups = self._launcher.cgroups
        for name in cgroups.names():
            if name.startswith(CGROUP_PREFIX):
                continue
            if not WorkerFolder(self._workers / name).is_locked():
                remove(cgroups.folders_of(name))
        if self._config.warm.parents:
            self._warm = WarmParents(
                self._own_folder() / "warm",
                trash=self._trash,
                launcher=self._launcher,
                limits=self._config.warm,
            )
            self._warm.get_ready()
        _log.info(
            "process_provisioner_ready",
            memory_limit=cgroups.describe("memory") or "RLIMIT_DATA, for each process by itself",
            cpu_limit=cgroups.describe("cpu") or "not enforced",
            process_limit=cgroups.describe("pids") or "not enforced",
            sdk=str(package) if package else "not installed: only projects with a command can run",
        )

    def warm_parents(self) -> WarmParents:
        """Give what keeps warm parents.

        Raises:
            ProvisionerError: nothing does.
        """
        if self._warm is None:
            raise ProvisionerError("There are no warm starts here")
        return self._warm

    def _stack_name(self) -> str:
        digest = hashlib.sha256(os.fsencode(self._workers)).hexdigest()[:12]
        return f"control-plane-{digest}"

    def _adopt_or_launch(self, request: WorkerRequest, start: "_Start") -> WorkerRecord | None:
        """Give the worker as it is or was; None: it is being started, ask again soon."""
        folder = self._folder(request.execution_id)
        try:
            folder.create()
            lock = folder.try_lock()
        except OSError as error:
            message = f"The folder {folder.path} cannot be written: {error.strerror}"
            raise ProvisionerError(message) from error
        try:
            started = folder.started()
            if started is not None:
                return self._record(request.execution_id, started.shim)
            if lock is None:
                return None
            if folder.is_closed():
                return self._record(request.execution_id, None)
            if start.launched:
                raise ProvisionerError(f"The worker's shim has failed: {_tail(folder.shim_log)}")
            if start.project is None:
                start.project = _open(request.docker_image)
            pid = None
            if self._warm is not None and not start.tried_warm:
                start.tried_warm = True
                pid = self._warm.start_worker(request, start.project, folder, lock=lock)
                # A forked one that was given up may just have come up.
                started = folder.started() if pid is None else None
                if started is not None:
                    return self._record(request.execution_id, started.shim)
            if pid is None:
                pid = self._ready().launch(request, start.project, folder, lock)
                start.launched = True
        except OSError as error:
            raise ProvisionerError(f"The worker cannot be started: {error}") from error
        finally:
            if lock is not None:
                os.close(lock)
        # A forked one becomes a child of this process when its parent dies, if this one is init.
        with suppress(RuntimeError):  # the loop was closed meanwhile
            start.loop.call_soon_threadsafe(self._reaper.watch, pid)
        return None

    def _close_folder(self, folder: WorkerFolder, grace: float) -> float:
        try:
            folder.create()
            return folder.close(grace=grace)
        except OSError as error:
            message = f"The folder {folder.path} cannot be written: {error.strerror}"
            raise ProvisionerError(message) from error

    def _list_folders(self) -> list[ExecutionId]:
        try:
            names = sorted(entry.name for entry in self._workers.iterdir())
        except FileNotFoundError:
            return []
        return [ExecutionId(name) for name in names if _EXECUTION_ID.fullmatch(name)]

    def _ready(self) -> Launcher:
        if self._launcher is None:
            raise ProvisionerError("The process provisioner has not been started")
        return self._launcher

    def _code_folders(self) -> BundleFolders:
        if self._code is None:
            raise ProvisionerError("The process provisioner has not been started")
        return self._code

    @property
    def _workers(self) -> Path:
        return self._own_folder() / "workers"

    @property
    def _trash(self) -> Path:
        return self._own_folder() / "trash"

    def _own_folder(self) -> Path:
        if self._deployment is None:
            raise ProvisionerError("The process provisioner has not been started")
        return self._state_folder / self._deployment

    def _folder(self, execution_id: ExecutionId) -> WorkerFolder:
        if not _EXECUTION_ID.fullmatch(execution_id):
            raise UnrecoverableProvisioningError(f"{execution_id!r} is not an execution id")
        return WorkerFolder(self._workers / execution_id)

    def _record(self, execution_id: ExecutionId, shim: ProcessIdentity | None) -> WorkerRecord:
        state: dict[str, Any] = {
            "host": socket.gethostname(),
            "boot_id": boot_id(),
            "folder": str(self._folder(execution_id).path),
        }
        if shim is not None:
            state |= {"id": str(shim.pid), "pid": shim.pid, "started": shim.started}
        return WorkerRecord(execution_id=execution_id, state=state)

    def _shim_of(
        self, execution_id: ExecutionId, worker: WorkerRecord | None
    ) -> ProcessIdentity | None:
        started = self._folder(execution_id).started()
        return started.shim if started else _identity(worker)

    def _output_has_grown(self, execution_id: ExecutionId) -> bool:
        size = _size(self._folder(execution_id).output)
        grown = size > self._output_seen.get(execution_id, 0)
        self._output_seen[execution_id] = size
        return grown


_EXECUTION_ID = re.compile(r"exe-[0-9a-f]{32}")


@dataclass(kw_only=True)
class _Start:
    """One call of `provision`."""

    loop: asyncio.AbstractEventLoop
    project: Project | None
    """The code, as soon as it is known; None if there is nothing to start any more."""
    tried_warm: bool = False
    """Whether it was to be forked. If it has died before it was on its feet, it starts cold."""
    launched: bool = False


def _open(docker_image: str) -> Project:
    if digest_of(docker_image) is not None:
        raise ProvisionerError("The worker's folder has just been deleted")
    return open_project(docker_image)


def _elsewhere(worker: WorkerRecord) -> str | None:
    """Say so if a worker belongs to another machine.

    The same kernel is the same machine, also from within another container: locks work there. After
    a reboot the kernel is another one, and the host name the same.
    """
    host = worker.state.get("host")
    if worker.state.get("boot_id") == boot_id() or host == socket.gethostname():
        return None
    return f"the worker runs on the host {host}; only a Temporal worker there can reach it"


def _identity(worker: WorkerRecord | None) -> ProcessIdentity | None:
    if worker is None or "pid" not in worker.state:
        return None
    return ProcessIdentity(worker.state["pid"], worker.state["started"])


@asynccontextmanager
async def _end_of(process: ProcessIdentity | None) -> AsyncIterator[asyncio.Event]:
    """Give an event that is set when the process is gone; never, if it is not known here."""
    gone = asyncio.Event()
    descriptor = None if process is None else open_pidfd(process)
    if descriptor is None:
        yield gone
        return
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(descriptor)
        gone.set()

    loop.add_reader(descriptor, ended)
    try:
        yield gone
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _signal(process: ProcessIdentity, number: signal.Signals) -> None:
    descriptor = open_pidfd(process)
    if descriptor is not None:
        send(descriptor, number)
        os.close(descriptor)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1][:500] if lines else "it left no message"

"""Virtual environments with what code bundles depend on, one for each set of dependencies.

An environment is named after what decides what is in it: the list of dependencies, and the
interpreter. A list that refers to files of the bundle counts as another one in each bundle. It is
complete when it has the file `used`. The Temporal worker that builds it holds the lock beside it,
and so do the installers that it has started, which may outlive it.
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from provisioners.base import ProvisionerError
from provisioners.code.build import Build
from provisioners.code.confined import FactsReader
from provisioners.code.facts import Dependencies, joint_digest
from provisioners.code.project_code import ProjectCode
from provisioners.files import delete_tree

_FORMAT = 1
"""Changes when environments are built in another way."""
_MARGIN_SECONDS = 30.0
"""For another one's installer to be ended after its time."""

_log = structlog.get_logger(__name__)


class Environments:
    """Builds environments, with uv where there is one, otherwise with pip.

    Args:
        python: the interpreter that they are for.
        build_seconds: time for one.
        uv: the program; None for pip.
        allow_builds: whether packages may be built, which runs their code.
        reader: reads lists that are made of users' files.
    """

    def __init__(
        self,
        *,
        python: Path,
        build_seconds: float,
        uv: Path | None,
        allow_builds: bool,
        reader: FactsReader,
    ) -> None:
        self._python = python
        self._build_seconds = build_seconds
        self._uv = uv
        self._allow_builds = allow_builds
        self._reader = reader

    def find(
        self, code: ProjectCode, dependencies: Dependencies | None, *, bundle_digest: str
    ) -> Path | None:
        """Give the environment for a bundle, marked as used; None if it is still to be built.

        For a bundle without dependencies it is a folder that does not exist.
        """
        if dependencies is None:
            return code.environments / "none"
        folder = code.environments / self._key(dependencies, bundle_digest)
        try:
            os.utime(folder / "used")
        except FileNotFoundError:
            return None
        return folder / "venv"

    async def make(
        self, code: ProjectCode, dependencies: Dependencies, *, files: Path, bundle_digest: str
    ) -> None:
        """Build the environment for a bundle, unless it is there.

        Args:
            code: of the project.
            dependencies: what the bundle wants to have installed.
            files: of the bundle.
            bundle_digest: names the bundle.

        Raises:
            UnrecoverableProvisioningError: the dependencies cannot be installed; the text has the
                end of the installer's output.
            ProvisionerError: as it looks, only the network or the disk is in the way.
        """
        folder = code.environments / self._key(dependencies, bundle_digest)
        lock_file = folder.with_suffix(".lock")
        async with _locked(lock_file, seconds=self._build_seconds + _MARGIN_SECONDS) as lock:
            if await asyncio.to_thread((folder / "used").exists):
                return
            await asyncio.to_thread(delete_tree, folder)
            # The operator may have deleted the cache.
            await asyncio.to_thread(code.make)
            await asyncio.to_thread(folder.mkdir)
            await asyncio.to_thread(folder.chmod, 0o755)
            _log.info("environment_is_built", key=folder.name, source=dependencies.source)
            await Build(
                folder,
                files,
                dependencies,
                python=self._python,
                uv=self._uv,
                allow_builds=self._allow_builds,
                cache=code.cache,
                reader=self._reader,
                seconds=self._build_seconds,
                lock=lock,
            ).run()
            await asyncio.to_thread((folder / "used").touch)

    def _key(self, dependencies: Dependencies, bundle_digest: str) -> str:
        python = self._python.stat()
        digest = dependencies.digest(bundle_digest)
        return joint_digest(_FORMAT, digest, str(self._python), python.st_mtime_ns, python.st_size)[
            :32
        ]


@asynccontextmanager
async def _locked(path: Path, *, seconds: float) -> AsyncIterator[int]:
    """Hold a lock file; gives its descriptor. It is polled for: a build may take minutes.

    Raises:
        ProvisionerError: another process has it for longer than so many seconds.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            async with asyncio.timeout(seconds):
                await _lock(descriptor)
        except TimeoutError:
            raise ProvisionerError(
                f"Another installer of these dependencies does not end: a process has had {path} "
                f"locked for more than {seconds:g} seconds (`fuser` shows which)"
            ) from None
        yield descriptor
    finally:
        os.close(descriptor)


async def _lock(descriptor: int) -> None:
    pause = 0.02
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 1.0)
        else:
            return

"""Code bundles as folders, unpacked and with the environments that they need.

Each project has a folder of its own (`project_code.py`), and in there:

| path | what it is |
|---|---|
| `bundles/<digest>/files/` | the files of a bundle, read-only |
| `bundles/<digest>/facts.json` | what its files say (`facts.py`): they are parsed once |
| `bundles/<digest>/used` | touched whenever a worker is about to be started from it |
| `environments/<key>/` | a virtual environment (`environments.py`), with a `used` of its own |

The file `lock` beside the projects' folders is held shared to mark something as used, and
exclusively to remove what is not.

A folder appears in one step, complete, so nothing here minds a crash, a second call, or a second
Temporal worker. What no worker was started from for some days is removed; as no call lasts longer
than one, no worker runs from it any more. It is made again when it is needed.
"""

import asyncio
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from core.bundles import BundleFile, BundleIsGoneError, BundleSource, Manifest, is_digest
from core.ids import VersionId
from provisioners.base import ProvisionerError, UnrecoverableProvisioningError
from provisioners.code.confined import FactsReader, compile_python
from provisioners.code.environments import Environments
from provisioners.code.facts import ProjectFacts, facts_from
from provisioners.code.project import Project, project_of
from provisioners.code.project_code import ProjectCode
from provisioners.files import delete_tree, read_regular_file

_BATCH_BYTES = 4 * 2**20
_BATCH_PIECES = 500
_FACTS = "facts.json"
_MAX_FACTS_BYTES = 16 * 2**20
_MODIFIED = 315_532_800
"""1980 in epoch seconds: the earliest that a zip file can express."""
_REMEMBERED_SECONDS = 60.0
"""For so long a failure is told to the other functions of a version, instead of trying again."""
_SECONDS_BETWEEN_REMOVALS = 3600.0

_log = structlog.get_logger(__name__)


_Wanted = tuple[VersionId, str]
"""A version, and the digest of its bundle."""


@dataclass(frozen=True, kw_only=True)
class _Failure:
    at: float
    text: str


class BundleFolders:
    """Makes folders of code bundles, and their environments.

    Args:
        folder: for the code of all projects.
        source: where they are read.
        trash: on the same file system; emptied at the next start.
        python: the interpreter that workers get.
        reader: reads the projects' files.
        environments: makes the virtual environments.
        keep_seconds: how long that stays which is not used.
        give: gives a project's folder to the user of its workers, to be read; in any thread.
    """

    def __init__(
        self,
        folder: Path,
        source: BundleSource,
        *,
        trash: Path,
        python: Path,
        reader: FactsReader,
        environments: Environments,
        keep_seconds: float,
        give: Callable[[str, Path], None],
    ) -> None:
        self._give = give
        self._folder = folder
        self._trash = trash
        self._python = python
        self._reader = reader
        self._environments = environments
        self._keep_seconds = keep_seconds
        self._source = source
        # For each version by itself: a bundle may be gone for one whose project was deleted, and
        # be there for others.
        self._under_way: dict[_Wanted, asyncio.Task[None]] = {}
        self._failures: dict[_Wanted, _Failure] = {}
        self._removed_at = -_SECONDS_BETWEEN_REMOVALS

    async def close(self) -> None:
        """Stop what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def open(self, project_name: str, version_id: VersionId, digest: str) -> Project:
        """Give the folder of a bundle, with an environment that has its dependencies.

        A caller that is cancelled does not stop what is under way: the next one joins it.

        Args:
            project_name: whose code it is.
            version_id: of that project; it runs the bundle.
            digest: names the bundle.

        Raises:
            UnrecoverableProvisioningError: there is no such bundle, it holds no program, or its
                dependencies cannot be installed; the text says why.
            ProvisionerError: it may work later.
        """
        if not is_digest(digest):
            message = f"bundle://{digest} does not name a code bundle: it needs 64 digits"
            raise UnrecoverableProvisioningError(message)
        wanted = (version_id, digest)
        code = ProjectCode.of(self._folder, project_name)
        project = await asyncio.to_thread(self._find, code, digest)
        while project is None:
            self._raise_earlier_failure(wanted)
            task = self._under_way.get(wanted)
            if task is None:
                task = asyncio.create_task(self._make(code, version_id, digest))
                self._under_way[wanted] = task
                task.add_done_callback(lambda done: self._is_done(wanted, done))
            await asyncio.shield(task)
            project = await asyncio.to_thread(self._find, code, digest)
        return project

    def _find(self, code: ProjectCode, digest: str) -> Project | None:
        """Give the folder if it is ready, and mark it as used."""
        bundle = code.bundles / digest
        with self._lock(fcntl.LOCK_SH):
            try:
                os.utime(bundle / "used")
            except FileNotFoundError:
                return None
            facts = _kept_facts(bundle)
            if facts is None:
                return None
            facts.check()
            environment = self._environments.find(code, facts.dependencies, bundle_digest=digest)
        if environment is None:
            return None
        return project_of(facts, bundle / "files", environment_folder=environment)

    def remove_unused(self) -> None:
        """Remove what was not used for long; at most once in an hour."""
        now = time.monotonic()
        if now - self._removed_at < _SECONDS_BETWEEN_REMOVALS:
            return
        self._removed_at = now
        before = time.time() - self._keep_seconds
        discarded = []
        with self._lock(fcntl.LOCK_EX):
            for path in self._unused_since(before):
                target = self._trash / f"{path.name}-{secrets.token_hex(8)}"
                with suppress(FileNotFoundError):
                    path.rename(target)
                    discarded.append(target)
        for target in discarded:
            delete_tree(target)
            _log.info("unused_code_removed", name=target.name)

    def _unused_since(self, before: float) -> Iterator[Path]:
        # Before projects had folders of their own, all of them had one together: this one. Workers
        # that were started then run from there.
        together = ProjectCode(self._folder)
        for code in (together, *ProjectCode.all_in(self._folder)):
            for entry in code.entries():
                with suppress(FileNotFoundError):
                    # What a killed process has left half-made has no mark.
                    mark = entry / "used" if (entry / "used").exists() else entry
                    if mark.stat().st_mtime < before:
                        yield entry
            emptied_at = code.emptied_at()
            if emptied_at is None or emptied_at >= before:
                continue
            if code == together:
                yield from (code.bundles, code.environments, code.cache)
            else:
                yield code.folder

    def _raise_earlier_failure(self, wanted: _Wanted) -> None:
        failure = self._failures.get(wanted)
        if failure is not None and time.monotonic() - failure.at < _REMEMBERED_SECONDS:
            raise UnrecoverableProvisioningError(failure.text)

    def _is_done(self, wanted: _Wanted, task: asyncio.Task[None]) -> None:
        self._under_way.pop(wanted, None)
        # Asking for it also keeps asyncio from complaining when no caller waits any more.
        error = None if task.cancelled() else task.exception()
        if isinstance(error, UnrecoverableProvisioningError):
            now = time.monotonic()
            self._failures = {
                other: failure
                for other, failure in self._failures.items()
                if now - failure.at < _REMEMBERED_SECONDS
            }
            self._failures[wanted] = _Failure(at=now, text=str(error))

    async def _make(self, code: ProjectCode, version_id: VersionId, digest: str) -> None:
        try:
            await asyncio.to_thread(self.remove_unused)
            bundle = code.bundles / digest
            if not await asyncio.to_thread((bundle / "used").exists):
                await self._materialise(code, version_id, digest)
            # Not removed before it is marked again: that takes days.
            facts = await asyncio.to_thread(_kept_facts, bundle)
            if facts is None:
                facts = await self._find_facts(bundle)
            facts.check()
            if facts.dependencies is not None:
                await self._environments.make(
                    code, facts.dependencies, files=bundle / "files", bundle_digest=digest
                )
        except BundleIsGoneError as error:
            raise UnrecoverableProvisioningError(str(error)) from error
        except OSError as error:
            raise ProvisionerError(f"The code bundle cannot be unpacked: {error}") from error

    async def _materialise(self, code: ProjectCode, version_id: VersionId, digest: str) -> None:
        stored = await self._source.open(version_id, digest)
        fresh = code.bundles / f".{digest}-{secrets.token_hex(8)}"
        try:
            await asyncio.to_thread(self._begin, code, fresh)
            files = fresh / "files"
            await asyncio.to_thread(_make_files, files, stored.manifest)
            for batch in _batches(stored.manifest):
                contents = await stored.read({piece for _, piece in batch})
                await asyncio.to_thread(_write, files, batch, contents)
            await compile_python(files, python=self._python)
            await self._find_facts(fresh)
            await asyncio.to_thread(_finish, fresh, stored.manifest)
            bundle = code.bundles / digest
            try:
                await asyncio.to_thread(fresh.rename, bundle)
            except OSError:
                # Another Temporal worker may have been faster.
                if not await asyncio.to_thread((bundle / "used").exists):
                    raise
        finally:
            await asyncio.to_thread(delete_tree, fresh)

    async def _find_facts(self, bundle: Path) -> ProjectFacts:
        """Read what the files of a bundle say, and keep it."""
        facts = await self._reader.read(bundle / "files", dependencies=True)
        await asyncio.to_thread(_keep_facts, bundle, facts)
        return facts

    def _begin(self, code: ProjectCode, fresh: Path) -> None:
        # Locked, since a project's folder with nothing in it may be about to be removed.
        with self._lock(fcntl.LOCK_SH):
            code.make()
            self._give(code.project_name, code.folder)
            fresh.mkdir()

    @contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)

    def get_ready(self) -> None:
        """Make the folder, and remove what was not used for long."""
        self._folder.mkdir(parents=True, exist_ok=True)
        # Workers pass through it to the folder of their project.
        self._folder.chmod(0o711)
        self.remove_unused()


_Batch = list[tuple[BundleFile, str]]


def _batches(manifest: Manifest) -> Iterator[_Batch]:
    sizes = manifest.pieces
    batch: _Batch = []
    total = 0
    for file in manifest.files:
        for piece in file.pieces:
            if batch and (total + sizes[piece] > _BATCH_BYTES or len(batch) == _BATCH_PIECES):
                yield batch
                batch, total = [], 0
            batch.append((file, piece))
            total += sizes[piece]
    if batch:
        yield batch


def _make_files(folder: Path, manifest: Manifest) -> None:
    folder.mkdir()
    for file in manifest.files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=False)


def _write(folder: Path, batch: _Batch, contents: dict[str, bytes]) -> None:
    for file, piece in batch:
        content = contents[piece]
        if hashlib.sha256(content).hexdigest() != piece:
            raise UnrecoverableProvisioningError(f"The stored piece {piece} is damaged")
        with (folder / file.path).open("ab") as target:
            target.write(content)


def _kept_facts(bundle: Path) -> ProjectFacts | None:
    """Give the facts about a bundle; None if they are to be found (again)."""
    try:
        return facts_from(read_regular_file(bundle / _FACTS, limit=_MAX_FACTS_BYTES))
    except OSError:
        return None


def _keep_facts(bundle: Path, facts: ProjectFacts) -> None:
    fresh = bundle / f".{_FACTS}-{secrets.token_hex(8)}"
    fresh.write_text(facts.model_dump_json())
    fresh.chmod(0o444)
    fresh.replace(bundle / _FACTS)


def _finish(fresh: Path, manifest: Manifest) -> None:
    for file in manifest.files:
        path = fresh / "files" / file.path
        path.chmod(0o555 if file.executable else 0o444)
        os.utime(path, (_MODIFIED, _MODIFIED))
    for folder, _, _ in os.walk(fresh / "files"):
        Path(folder).chmod(0o555)
    fresh.chmod(0o755)
    (fresh / "used").touch()

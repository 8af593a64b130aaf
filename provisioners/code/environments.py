"""Virtual environments with what code bundles depend on, one for each set of dependencies.

An environment is named after what decides what is in it: the list of dependencies, and the
interpreter. A list that refers to files of the bundle counts as another one in each bundle. It is
complete when it has the file `used`; whoever wants to build it holds the lock beside it, and so do
the builder's own programs, which may outlive the Temporal worker.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import tomllib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from provisioners.base import ProvisionerError, UnrecoverableProvisioningError
from provisioners.process.ending import delete_tree

_FORMAT = 1
"""Changes when environments are built in another way."""
_SDK = "control-plane-sdk"
_MAX_TEXT = 1_900
"""Characters of a failure's text: a little less than what is kept of it."""
_MAX_FIRST_LINE = 600
_LOG_TAIL_BYTES = 16_384

_PASSED = re.compile(
    r"PATH|HOME|USER|LANG|LC_ALL|TZ|TMPDIR|(UV|PIP)_.*|(https?|no|all)_proxy|SSL_CERT_(FILE|DIR)"
    r"|REQUESTS_CA_BUNDLE",
    re.IGNORECASE,
)
"""What installers get of the Temporal worker's environment. They run code of the packages."""

_MAY_PASS = re.compile(
    r"error sending request|connection (refused|reset|aborted|error)|timed? ?out|dns error"
    r"|temporary failure|name resolution|NewConnectionError|unreachable|no space left"
    r"|\b(429|502|503|504)\b|Retrying \(Retry",
    re.IGNORECASE,
)
_ERROR = re.compile(r"(?:error:|\u00d7) *(.+)", re.IGNORECASE)
_CAUSE = re.compile(r"(?:cause:|caused by:|[├╰]─▶) *(.+)", re.IGNORECASE)
"""As pip and uv write them: some versions of uv mark both with signs."""
_OF_NO_USE = re.compile(r"$|Using Python \S+ environment at")
_CREDENTIALS = re.compile(r"(\w+://)[^/@\s]+@")
_PLAIN_REQUIREMENT = re.compile(
    # A name that ends as a file's does is taken for a file of the bundle.
    r"(?!\S+\.(whl|zip|tgz|tar(\.\w+)?)(\s|;|$))[A-Za-z0-9][^/@\\]*|--hash=\S+",
    re.IGNORECASE,
)
_MARGIN_SECONDS = 30.0
"""For another one's installer to be ended after its time."""
_LOCAL_SOURCE = re.compile(r'source = \{ (path|directory|editable|virtual) = "(?!\.")')
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Dependencies:
    """What a bundle wants to have installed."""

    source: str
    """The file that says so."""
    requirements: str | None
    """The list, for installers; None: they read the file itself."""
    is_plain: bool
    """Whether it refers to nothing within the bundle."""
    digest: str
    """Names the list together with all that it refers to."""


def dependencies_of(files: Path, bundle_digest: str) -> Dependencies | None:
    """Read what a bundle depends on: requirements.txt, or uv.lock, or pyproject.toml.

    The first of them that is there counts. The SDK is left out: each worker has it.

    Raises:
        UnrecoverableProvisioningError: the file cannot be read.
    """
    try:
        if (files / "requirements.txt").exists():
            return _from_requirements((files / "requirements.txt").read_text(), bundle_digest)
        if (files / "pyproject.toml").exists():
            text = (files / "pyproject.toml").read_text()
            if (files / "uv.lock").exists():
                lock = (files / "uv.lock").read_text()
                return _from_lock(text, lock, bundle_digest)
            return _from_pyproject(tomllib.loads(text), bundle_digest)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        message = f"The dependencies of the project cannot be read: {error}"
        raise UnrecoverableProvisioningError(message) from None
    return None


def _from_requirements(text: str, bundle_digest: str) -> Dependencies | None:
    lines = [
        re.sub(r"(^|\s)#.*", "", line).strip() for line in re.sub(r"\\\n", " ", text).split("\n")
    ]
    lines = [line for line in lines if line]
    kept = [line for line in lines if not _is_sdk(line)]
    if not kept:
        return None
    is_plain = all(_PLAIN_REQUIREMENT.fullmatch(line) for line in kept)
    return Dependencies(
        source="requirements.txt",
        requirements=None if kept == lines else "\n".join(kept) + "\n",
        is_plain=is_plain,
        digest=_digest("requirements", *kept, *([] if is_plain else [bundle_digest])),
    )


def _from_lock(project: str, lock: str, bundle_digest: str) -> Dependencies:
    is_plain = _LOCAL_SOURCE.search(lock) is None
    return Dependencies(
        source="uv.lock",
        requirements=None,
        is_plain=is_plain,
        digest=_digest("uv.lock", project, lock, *([] if is_plain else [bundle_digest])),
    )


def _from_pyproject(content: dict[str, object], bundle_digest: str) -> Dependencies | None:
    project = content.get("project")
    listed = project.get("dependencies", []) if isinstance(project, dict) else []
    if not isinstance(listed, list) or not all(isinstance(line, str) for line in listed):
        message = "pyproject.toml: project.dependencies must be a list of strings"
        raise UnrecoverableProvisioningError(message)
    kept = [line.strip() for line in listed if not _is_sdk(line)]
    if not kept:
        return None
    is_plain = all(_PLAIN_REQUIREMENT.fullmatch(line) for line in kept)
    return Dependencies(
        source="pyproject.toml",
        requirements="\n".join(kept) + "\n",
        is_plain=is_plain,
        digest=_digest("pyproject", *kept, *([] if is_plain else [bundle_digest])),
    )


def _is_sdk(requirement: str) -> bool:
    name = _NAME.match(requirement.strip())
    return name is not None and re.sub(r"[-_.]+", "-", name.group()).lower() == _SDK


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Environments:
    """Builds environments, with uv where there is one, otherwise with pip.

    Args:
        folder: for the environments.
        python: the interpreter that they are for.
        build_seconds: time for one.
        uv: the program; None for pip.
    """

    def __init__(
        self, folder: Path, *, python: Path, build_seconds: float, uv: Path | None
    ) -> None:
        self.folder = folder
        self._python = python
        self._build_seconds = build_seconds
        self._uv = uv

    def find(self, files: Path, bundle_digest: str) -> Path | None:
        """Give the environment for a bundle, marked as used; None if it is still to be built.

        For a bundle without dependencies it is a folder that does not exist.
        """
        dependencies = dependencies_of(files, bundle_digest)
        if dependencies is None:
            return self.folder / "none"
        folder = self.folder / self._key(dependencies)
        try:
            os.utime(folder / "used")
        except FileNotFoundError:
            return None
        return folder / "venv"

    async def make(self, files: Path, bundle_digest: str) -> None:
        """Build the environment for a bundle, unless it is there.

        Raises:
            UnrecoverableProvisioningError: the dependencies cannot be installed; the text has the
                end of the installer's output.
            ProvisionerError: as it looks, only the network or the disk is in the way.
        """
        dependencies = await asyncio.to_thread(dependencies_of, files, bundle_digest)
        if dependencies is None:
            return
        folder = self.folder / self._key(dependencies)
        lock_file = folder.with_suffix(".lock")
        async with _locked(lock_file, seconds=self._build_seconds + _MARGIN_SECONDS) as lock:
            if await asyncio.to_thread((folder / "used").exists):
                return
            await asyncio.to_thread(delete_tree, folder)
            await asyncio.to_thread(folder.mkdir, mode=0o700)
            _log.info("environment_is_built", key=folder.name, source=dependencies.source)
            await _Build(
                folder,
                files,
                dependencies,
                python=self._python,
                uv=self._uv,
                seconds=self._build_seconds,
                lock=lock,
            ).run()
            await asyncio.to_thread((folder / "used").touch)

    def _key(self, dependencies: Dependencies) -> str:
        python = self._python.stat()
        return _digest(
            _FORMAT, dependencies.digest, str(self._python), python.st_mtime_ns, python.st_size
        )[:32]


@asynccontextmanager
async def _locked(path: Path, *, seconds: float) -> AsyncIterator[int]:
    """Hold a lock file; gives its descriptor. It is polled for: a build may take minutes.

    Raises:
        ProvisionerError: somebody else has it for longer than so many seconds.
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


class _Build:
    """The building of one environment."""

    def __init__(
        self,
        folder: Path,
        files: Path,
        dependencies: Dependencies,
        *,
        python: Path,
        uv: Path | None,
        seconds: float,
        lock: int,
    ) -> None:
        self._folder = folder
        # What is built from the bundle's own folders may want to write there. It stays: an editable
        # installation refers to it.
        self._copied = None if dependencies.is_plain else files
        self._files = files if dependencies.is_plain else folder / "source"
        self._dependencies = dependencies
        self._python = python
        self._uv = uv
        self._seconds = seconds
        self._lock = lock
        self._log = folder / "log"
        # Other files that a list names are looked for beside it.
        beside_it = dependencies.requirements is None or not dependencies.is_plain
        self._requirements = (self._files if beside_it else folder) / "requirements.txt"

    async def run(self) -> None:
        if self._copied is not None:
            await asyncio.to_thread(_copy_writable, self._copied, self._files)
        if self._dependencies.requirements is not None:
            await asyncio.to_thread(self._requirements.write_text, self._dependencies.requirements)
        try:
            async with asyncio.timeout(self._seconds):
                for command in self._commands():
                    if await self._execute(command):
                        raise self._failure()
        except TimeoutError:
            raise UnrecoverableProvisioningError(
                self._text(f"were not installed within {self._seconds:g} seconds")
            ) from None

    def _commands(self) -> list[Sequence[str]]:
        venv = self._folder / "venv"
        own_python = str(venv / "bin" / "python")
        if self._uv is None:
            if self._dependencies.source == "uv.lock":
                raise UnrecoverableProvisioningError(
                    "The project has a uv.lock, and uv is not installed beside the Temporal "
                    "worker. Install it there, or deploy a requirements.txt"
                )
            pip = (own_python, "-I", "-m", "pip", "install", "--no-input", "--progress-bar=off")
            return [
                (str(self._python), "-I", "-m", "venv", str(venv)),
                (*pip, "--disable-pip-version-check", "-r", str(self._requirements)),
            ]
        uv = str(self._uv)
        commands: list[Sequence[str]] = [
            (uv, "venv", "--quiet", "--no-project", f"--python={self._python}", str(venv))
        ]
        if self._dependencies.source == "uv.lock":
            self._requirements = self._folder / "requirements.txt"
            export = (uv, "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project")
            commands.append(
                (
                    *export,
                    f"--python={self._python}",
                    *("--no-emit-package", _SDK),
                    f"--output-file={self._requirements}",
                )
            )
        install = (uv, "pip", "install", "--no-progress", "--compile-bytecode")
        commands.append((*install, f"--python={own_python}", "-r", str(self._requirements)))
        return commands

    async def _execute(self, command: Sequence[str]) -> int:
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=self._files,
                env=self._environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[self._lock],
            )
        try:
            return await process.wait()
        finally:
            # Whatever the installer has started ends with it.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    def _environment(self) -> dict[str, str]:
        passed = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
        return {
            "UV_CACHE_DIR": str(self._folder.parent.parent / "uv-cache"),
            **passed,
            "UV_PYTHON_DOWNLOADS": "never",
            # The bundle's folder is read-only, and imports write into it otherwise.
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _failure(self) -> ProvisionerError:
        text = self._text("cannot be installed")
        if _MAY_PASS.search(text):
            return ProvisionerError(text)
        return UnrecoverableProvisioningError(text)

    def _text(self, what: str) -> str:
        """Say what went wrong, with as much of the output's end as there is room for."""
        reason, others = _reason_and_others(self._output())
        first = f"The dependencies in {self._dependencies.source} {what}"
        if reason:
            first = f"{first}: {reason}"
        room = _MAX_TEXT - len(first[:_MAX_FIRST_LINE]) - 1
        tail: list[str] = []
        for line in reversed(others):
            room -= len(line) + 1
            if room < 0:
                break
            tail.insert(0, line)
        return "\n".join([first[:_MAX_FIRST_LINE], *tail])

    def _output(self) -> list[str]:
        """Give the lines at the end of the installers' output."""
        with self._log.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - _LOG_TAIL_BYTES))
            output = log.read().decode(errors="replace").replace("\0", "")
        # The user's files are known to him by the names that they have in his project.
        for folder in (self._files, self._folder):
            output = output.replace(f"file://{folder}/", "").replace(f"{folder}/", "")
        return [_CREDENTIALS.sub(r"\1***@", line) for line in output.strip().splitlines()]


def _reason_and_others(lines: Sequence[str]) -> tuple[str, list[str]]:
    """Take the reason of a failure out of the installers' output.

    It is the first error; with uv, also the causes that follow it.
    """
    reasons: list[str] = []
    others: list[str] = []
    is_in_reason = False
    for line in lines:
        text = line.strip()
        error, cause = _ERROR.fullmatch(text), _CAUSE.fullmatch(text)
        if error is not None and not reasons:
            reasons.append(error[1].rstrip(":"))
            is_in_reason = True
        elif cause is not None and is_in_reason:
            reasons.append(cause[1].rstrip(":"))
        else:
            is_in_reason = False
            if not _OF_NO_USE.match(text):
                others.append(line)
    return ": ".join(reasons), others


def _copy_writable(source: Path, target: Path) -> None:
    # Without the modes, which are read-only.
    for folder, _, names in os.walk(source):
        fresh = target / Path(folder).relative_to(source)
        fresh.mkdir(mode=0o700)
        for name in names:
            shutil.copyfile(Path(folder) / name, fresh / name)
            fresh.joinpath(name).chmod(Path(folder, name).stat().st_mode | 0o600)


def find_uv() -> Path | None:
    """Find uv: beside the server's interpreter, or on the PATH."""
    beside = Path(sys.executable).with_name("uv")
    if beside.exists():
        return beside
    found = shutil.which("uv")
    return None if found is None else Path(found)

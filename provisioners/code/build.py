"""The building of one environment: the installer's commands, and what its output says."""

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from provisioners.base import ProvisionerError, UnrecoverableProvisioningError
from provisioners.code.facts import Dependencies
from provisioners.code.sdk import DISTRIBUTION

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


class Build:
    """Builds one environment.

    Args:
        folder: of the environment; empty.
        files: those of the bundle, read-only.
        dependencies: what is installed.
        python: the interpreter that it is for.
        uv: the program; None for pip.
        seconds: time for all of it.
        lock: descriptor of the lock that installers hold, too.
    """

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
        """Install the dependencies into the folder `venv`.

        Raises:
            UnrecoverableProvisioningError: they cannot be installed; the text has the end of the
                installer's output.
            ProvisionerError: as it looks, only the network or the disk is in the way.
        """
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
                    *("--no-emit-package", DISTRIBUTION),
                    f"--output-file={self._requirements}",
                )
            )
        install = (uv, "pip", "install", "--no-progress", "--compile-bytecode")
        commands.append((*install, f"--python={own_python}", "-r", str(self._requirements)))
        return commands

    async def _execute(self, command: Sequence[str]) -> int:
        with self._log.open("ab") as log:
            # An index may be named with a password.
            self._log.chmod(0o600)
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=self._files,
                env=self._environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[self._lock],
                # What they install is read by another user.
                umask=0o022,
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
        fresh.mkdir(mode=0o755)
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

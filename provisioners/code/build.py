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
from provisioners.code.confined import FactsReader, compile_python
from provisioners.code.confined_program import MAX_LOCK_BYTES
from provisioners.code.facts import Dependencies
from provisioners.code.sdk import DISTRIBUTION
from provisioners.files import delete_tree

_MAX_TEXT = 1_900
"""Characters of a failure's text: a little less than what is kept of it."""
_MAX_FIRST_LINE = 600
_LOG_TAIL_BYTES = 16_384

_PASSED = re.compile(
    r"PATH|LANG|LC_ALL|TZ|NETRC"
    # Proxies, and whom to trust.
    r"|(https?|no|all)_proxy|(HTTPS?|NO|ALL)_PROXY"
    r"|SSL_CERT_(FILE|DIR)|SSL_CLIENT_CERT|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
    # Where packages come from.
    r"|UV_(CONFIG_FILE|INDEX|DEFAULT_INDEX|INDEX_URL|EXTRA_INDEX_URL|INDEX_STRATEGY|FIND_LINKS)"
    r"|UV_INDEX_\w+_(USERNAME|PASSWORD)|UV_(NO_INDEX|OFFLINE|EXCLUDE_NEWER|KEYRING_PROVIDER)"
    r"|UV_(INSECURE_HOST|NATIVE_TLS|SYSTEM_CERTS|HTTP_TIMEOUT|HTTP_RETRIES)"
    r"|PIP_(CONFIG_FILE|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX|TRUSTED_HOST|CERT)"
    r"|PIP_(CLIENT_CERT|PROXY|DEFAULT_TIMEOUT|TIMEOUT|RETRIES|KEYRING_PROVIDER)"
)
"""What installers get of the Temporal worker's environment, by name (docs/operations.md)."""

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
_NO_WHEEL = re.compile(
    r"attempted to build `([^`]+)`|Wheels are required for `([^`]+)`|(\S+) has no usable wheels"
)
_HOW_TO_BUILD = (
    "this server builds no packages, as that runs their code. Take a version that has a wheel, put "
    "a wheel into the project, or have the operator set CONTROL_PLANE_ALLOW_BUILDS=yes"
)
_CREDENTIALS = re.compile(r"(\w+://)[^/@\s]+@")


class Build:
    """Builds one environment.

    Unless builds are allowed, an installer runs no code of packages. Its own option for that is not
    enough: uv builds in spite of `--no-build` what is listed with `-e`, and what a list or the
    project's own settings except with `no-binary`; pip builds what a wheel refers to by an address.

    Args:
        folder: of the environment; empty.
        files: those of the bundle, read-only.
        dependencies: what is installed.
        python: the interpreter that it is for.
        uv: the program; None for pip.
        allow_builds: whether packages may be built, which runs their code.
        cache: folder for what is downloaded, of this project only: with builds, what is in there
            was made by their code.
        reader: reads lists that are made of the user's files.
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
        allow_builds: bool,
        cache: Path,
        reader: FactsReader,
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
        self._allow_builds = allow_builds
        self._cache = cache
        self._reader = reader
        self._seconds = seconds
        self._lock = lock
        self._log = folder / "log"
        self._home = folder / "home"
        # Other files that a list names are looked for beside it.
        beside_it = dependencies.requirements is not None and not dependencies.is_plain
        self._requirements = (self._files if beside_it else folder) / "requirements.txt"
        self._constraints = self._requirements.with_name("control-plane-constraints.txt")

    async def run(self) -> None:
        """Install the dependencies into the folder `venv`.

        Raises:
            UnrecoverableProvisioningError: they cannot be installed; the text has the end of the
                installer's output.
            ProvisionerError: as it looks, only the network or the disk is in the way.
        """
        self._check_installer()
        if self._copied is not None:
            await asyncio.to_thread(_copy_writable, self._copied, self._files)
        try:
            async with asyncio.timeout(self._seconds):
                await self._install()
            for packages in (self._folder / "venv").glob("lib/python*/site-packages"):
                await compile_python(packages, python=self._python)
        except TimeoutError:
            raise UnrecoverableProvisioningError(
                self._text(f"were not installed within {self._seconds:g} seconds")
            ) from None
        finally:
            await asyncio.to_thread(delete_tree, self._home)

    def _check_installer(self) -> None:
        if self._uv is not None:
            return
        missing = "uv is not installed beside the Temporal worker"
        if self._dependencies.source == "uv.lock":
            raise UnrecoverableProvisioningError(
                f"The project has a uv.lock, and {missing}. Install it there, or deploy a "
                "requirements.txt"
            )
        if not self._allow_builds:
            raise UnrecoverableProvisioningError(
                f"The dependencies in {self._dependencies.source} cannot be installed: {missing}, "
                "and pip cannot be kept from running code of packages. Install uv there, or set "
                "CONTROL_PLANE_ALLOW_BUILDS=yes"
            )

    async def _install(self) -> None:
        await asyncio.to_thread(self._home.mkdir, mode=0o700)
        wanted: Dependencies | None = self._dependencies
        await self._execute(self._venv_command())
        if self._dependencies.source == "uv.lock":
            await self._execute(self._export_command())
            # What uv has made of the user's lock is as little to be trusted as that.
            facts = await self._reader.read(
                self._folder, dependencies=True, list_bytes=MAX_LOCK_BYTES
            )
            facts.check()
            wanted = facts.dependencies
        if wanted is None:
            return
        if wanted.needs_build is not None and not self._allow_builds:
            raise self._no_wheel(wanted.needs_build)
        await asyncio.to_thread(self._requirements.write_text, wanted.requirements or "")
        lists = ["-r", str(self._requirements)]
        if wanted.constraints is not None:
            await asyncio.to_thread(self._constraints.write_text, wanted.constraints)
            lists += ["-c", str(self._constraints)]
        await self._execute([*self._install_command(), *lists])

    def _venv_command(self) -> Sequence[str]:
        venv = str(self._folder / "venv")
        if self._uv is None:
            return (str(self._python), "-I", "-m", "venv", venv)
        no_project = ("--no-project", "--no-config")
        return (str(self._uv), "venv", "--quiet", *no_project, f"--python={self._python}", venv)

    def _export_command(self) -> Sequence[str]:
        return (
            *(str(self._uv), "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project"),
            *("--no-emit-package", DISTRIBUTION, f"--python={self._python}"),
            *(() if self._allow_builds else ("--no-config", "--no-editable")),
            f"--output-file={self._requirements}",
        )

    def _install_command(self) -> Sequence[str]:
        python = str(self._folder / "venv" / "bin" / "python")
        if self._uv is None:
            pip = (python, "-I", "-m", "pip", "install", "--no-input", "--progress-bar=off")
            return (*pip, "--disable-pip-version-check")
        # Not --compile-bytecode: for that, uv starts the interpreter of the environment, which runs
        # what the wheels have put into `.pth` files.
        install = (str(self._uv), "pip", "install", "--no-progress")
        only_wheels = () if self._allow_builds else ("--no-config", "--no-build")
        return (*install, *only_wheels, f"--python={python}")

    async def _execute(self, command: Sequence[str]) -> None:
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
            status = await process.wait()
        finally:
            # Whatever the installer has started ends with it.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if status:
            raise self._failure()

    def _environment(self) -> dict[str, str]:
        passed = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
        home = str(self._home)
        return {
            **passed,
            # Gone with the installation: nothing is left there for the next one.
            "HOME": home,
            "TMPDIR": home,
            "UV_CACHE_DIR": str(self._cache),
            "PIP_CACHE_DIR": str(self._cache / "pip"),
            "UV_PYTHON_DOWNLOADS": "never",
            # The bundle's folder is read-only, and imports write into it otherwise.
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _failure(self) -> ProvisionerError:
        if not self._allow_builds:
            no_wheel = _NO_WHEEL.search(" ".join(" ".join(self._output()).split()))
            if no_wheel is not None:
                return self._no_wheel(next(filter(None, no_wheel.groups())))
        text = self._text("cannot be installed")
        if _MAY_PASS.search(text):
            return ProvisionerError(text)
        return UnrecoverableProvisioningError(text)

    def _no_wheel(self, name: str) -> UnrecoverableProvisioningError:
        return UnrecoverableProvisioningError(
            f"The dependencies in {self._dependencies.source} cannot be installed: there is no "
            f"wheel of {name[:200]!r} for this machine, and {_HOW_TO_BUILD}"
        )

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

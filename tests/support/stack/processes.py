"""`control-plane` commands as real processes: started, awaited, and ended by their pid."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

Json = dict[str, Any]
T = TypeVar("T")

COMMAND = Path(sys.executable).with_name("control-plane")


def wait_for(
    look: Callable[[], T], wanted: Callable[[T], object] = bool, *, seconds: float = 30
) -> T:
    """Look again and again until what is seen is wanted; returns it."""
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if wanted(seen):
            return seen
        if time.monotonic() > end:
            raise AssertionError(f"not seen within {seconds} s; the last sight was: {seen}")
        time.sleep(0.02)


class Program:
    """One command that runs. Its output goes to files, so that it never waits for a reader."""

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str],
        folder: Path,
        user: int | None = None,
        open_files: int | None = None,
    ) -> None:
        """Start it. `open_files`: it may have no more, not even if it asks."""
        command = [str(COMMAND), *arguments]
        if open_files is not None:
            command = ["/bin/sh", "-c", f'ulimit -n {open_files}; exec "$0" "$@"', *command]
        folder.mkdir(parents=True, exist_ok=True)
        self._out = folder / "out"
        self._err = folder / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder if user is None else "/",
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
        self.pid = self._process.pid

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def event(self, name: str, *, seconds: float = 60) -> Json:
        """Wait for a line of the structured log."""

        def look() -> Json | None:
            for line in self.stderr.splitlines():
                if line.startswith("{") and f'"{name}"' in line:
                    found: Json = json.loads(line)
                    if found["event"] == name:
                        return found
            self._must_run()
            return None

        found = wait_for(look, seconds=seconds)
        assert found is not None
        return found

    def says(self, text: str, *, seconds: float = 60) -> str:
        """Wait for a text on standard output; returns all of it."""

        def look() -> bool:
            if text in self.stdout:
                return True
            self._must_run()
            return False

        wait_for(look, seconds=seconds)
        return self.stdout

    def writes(self, text: str, *, seconds: float = 60) -> None:
        """Wait until it has written this to standard error."""

        def look() -> bool:
            if text in self.stderr:
                return True
            self._must_run()
            return False

        wait_for(look, seconds=seconds)

    def _must_run(self) -> None:
        code = self.exit_code
        assert code is None, f"ended with {code}\n{self.stdout[-2000:]}\n{self.stderr[-4000:]}"

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, *, seconds: float = 20) -> int:
        """Wait for the end; returns the exit code, negative for a signal."""
        return self._process.wait(seconds)

    def kill(self) -> None:
        """End it with SIGKILL if it still runs, and wait until it is gone."""
        self._process.kill()
        self._process.wait(20)


def run(
    *arguments: str, environment: Mapping[str, str], seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [COMMAND, *arguments],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def one_line(text: str) -> str:
    """Give the only line of an error output."""
    (line,) = text.strip().splitlines()
    return line


def children_of(pid: int) -> list[int]:
    """Give the processes that a process has started; none if it has ended."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def processes_that_mention(folder: Path) -> dict[int, str]:
    """Give the live processes with this folder's path in their arguments or environment."""
    mark = os.fsencode(folder)
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes()
            # A zombie has neither.
            if mark in arguments or mark in (entry / "environ").read_bytes():
                found[int(entry.name)] = arguments.replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def until_no_process_mentions(folder: Path, *, seconds: float = 10) -> None:
    wait_for(lambda: processes_that_mention(folder), lambda found: not found, seconds=seconds)

"""How much memory processes take at most, as the kernel has counted it."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.stack.processes import processes_that_mention

MIB = 2**20
_PAUSE_SECONDS = 0.1
_WORKERS = {"shim": "process/shim", "runner": "control_plane/runner"}
"""What the command of a process has in it."""


def peak_of(pid: int) -> int | None:
    """Give the largest resident size of a process so far, in bytes; None if it is gone."""
    return _read(pid, "VmHWM")


def resident(pid: int) -> int | None:
    """Give the present resident size of a process in bytes; None if it is gone."""
    return _read(pid, "VmRSS")


def _read(pid: int, field: str) -> int | None:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024
    return None


class Peaks:
    """Peaks of servers, and of all workers that come and go, during a `with` block."""

    def __init__(self, servers: Mapping[str, int], *, workers: Path) -> None:
        self.before: dict[str, int] = {}
        self.peaks: dict[str, int] = {}
        """Of each kind of process the largest."""
        self._servers = servers
        self._workers = workers
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        for name, pid in self._servers.items():
            # The kernel forgets the peak so far.
            Path(f"/proc/{pid}/clear_refs").write_text("5")
            self.before[name] = resident(pid) or 0
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        for name, pid in self._servers.items():
            peak = peak_of(pid)
            if peak is None:
                raise AssertionError(f"{name} is gone")
            self._note(name, peak)

    def _watch(self) -> None:
        while not self._over.wait(_PAUSE_SECONDS):
            for pid, command in processes_that_mention(self._workers).items():
                # Between fork and exec a process is still a copy of the one that made it.
                kind = next((kind for kind, mark in _WORKERS.items() if mark in command), None)
                peak = peak_of(pid)
                if kind is not None and peak is not None:
                    self._note(kind, peak)

    def _note(self, name: str, peak: int) -> None:
        self.peaks[name] = max(peak, self.peaks.get(name, 0))

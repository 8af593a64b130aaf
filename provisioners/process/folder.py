"""One worker's folder: which files it holds, and what they say together with the lock.

No worker can reach it, where workers are other users than the server (`confinement`): what a
program may write to lies elsewhere (`scratch.py`).

| lock | worker.json | exit.json | meaning |
|---|---|---|---|
| free | no | no | nothing of the worker ever ran |
| held | | | it runs, or is being started or ended at this moment |
| free | yes | yes | it has ended |
| free | yes | no | its shim was killed: the worker is lost, and never started again |

`terminate.json` is the tombstone: with it nothing is started any more. The shim
(`programs/shim.py`) writes worker.json and exit.json.
"""

import fcntl
import json
import os
import secrets
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.states import Cause
from provisioners.base import Exited
from provisioners.files import UnfitFileError, read_regular_file
from provisioners.process.identity import ProcessIdentity

_MAX_BYTES = 2**20
"""Of one file. What the shim writes has some hundred."""


@dataclass(frozen=True, kw_only=True)
class StartRecord:
    """What worker.json says."""

    shim: ProcessIdentity
    program: ProcessIdentity
    cgroups: list[Path]
    warm: bool = False
    """Whether it was forked from a warm parent."""


@dataclass(frozen=True)
class WorkerFolder:
    """The folder of one worker."""

    path: Path

    @property
    def output(self) -> Path:
        """What the program printed."""
        return self.path / "output.log"

    @property
    def shim_log(self) -> Path:
        """What the shim has to say, which is nothing as long as all is well."""
        return self.path / "shim.log"

    def create(self) -> None:
        """Make the folder; fine if it is there."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def try_lock(self) -> int | None:
        """Take the lock: a descriptor to close, or None if another process has it.

        Raises:
            FileNotFoundError: the folder does not exist.
        """
        return self._lock(fcntl.LOCK_EX)

    def is_locked(self) -> bool:
        """Say whether the lock is held; False if there is no folder."""
        try:
            descriptor = self._lock(fcntl.LOCK_SH)
        except FileNotFoundError:
            return False
        if descriptor is None:
            return True
        os.close(descriptor)
        return False

    def _lock(self, kind: int) -> int | None:
        path = self.path / "lock"
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(descriptor)
            raise
        # Held by another, or the lock of a folder that was thrown away since it was opened.
        os.close(descriptor)
        return None

    def started(self) -> StartRecord | None:
        """Read worker.json."""
        content = self._read("worker.json")
        if content is None:
            return None
        if not content:
            # Something was started, and the machine lost its power. No process has the pid 0.
            no_process = ProcessIdentity(0, 0)
            return StartRecord(shim=no_process, program=no_process, cgroups=[])
        return StartRecord(
            shim=ProcessIdentity(**content["shim"]),
            program=ProcessIdentity(**content["program"]),
            cgroups=[Path(cgroup) for cgroup in content["cgroups"]],
            # Workers from before warm starts do not have it.
            warm=content.get("warm", False),
        )

    def ended(self) -> Exited | None:
        """Read exit.json. The worker is gone when besides that the lock is free."""
        content = self._read("exit.json")
        if not content:
            return None
        code, number = content["exit_code"], content["signal"]
        if content.get("lost"):
            return Exited(cause=Cause.WORKER_LOST, detail=content["reason"])
        if number is None:
            detail = content["reason"] or f"exit code {code}"
        else:
            detail = f"killed by signal {number} ({_signal_name(number)})"
        if content["oom"]:
            return Exited(
                exit_code=code,
                cause=Cause.OUT_OF_MEMORY,
                detail=f"the memory limit was reached; {detail}",
            )
        return Exited(exit_code=code, detail=detail)

    def record_loss(self, reason: str) -> None:
        """Write the exit.json that a killed shim could not write; the caller holds the lock."""
        self._write(
            "exit.json",
            {
                "exit_code": None,
                "signal": None,
                "oom": False,
                "reason": reason,
                "ended_at": time.time(),
                "lost": True,
            },
        )

    def is_closed(self) -> bool:
        """Say whether there is a tombstone."""
        return (self.path / "terminate.json").exists()

    def close(self, *, grace: float) -> float:
        """Put up the tombstone; one that is there stays as it is.

        Returns:
            The deadline (monotonic clock, which all processes of a machine share).
        """
        latest = time.monotonic() + grace
        content = {"deadline": latest, "requested_at": time.time(), "grace": grace}
        own = self._temporary_file(content)
        try:
            os.link(own, self.path / "terminate.json")
        except FileExistsError:
            # The bound is for a tombstone from before a reboot, when the clock began again.
            earlier = self._read("terminate.json") or content
            return min(latest, float(earlier.get("deadline", latest)))
        finally:
            own.unlink()
        return latest

    def _read(self, name: str) -> dict[str, Any] | None:
        """Read a file; empty if it was damaged, as by a loss of power (files are not fsynced)."""
        try:
            content = json.loads(read_regular_file(self.path / name, limit=_MAX_BYTES))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError, UnfitFileError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self, name: str, content: dict[str, Any]) -> None:
        self._temporary_file(content).rename(self.path / name)

    def _temporary_file(self, content: dict[str, Any]) -> Path:
        path = self.path / f".{secrets.token_hex(8)}"
        path.write_text(json.dumps(content) + "\n")
        return path


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"

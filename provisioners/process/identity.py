"""Processes by identity: a pid alone may belong to another process by now."""

import asyncio
import errno
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, even if another one gets its pid later."""

    pid: int
    started: int
    """Start time in clock ticks since boot, from /proc/PID/stat."""


def is_alive(identity: ProcessIdentity) -> bool:
    """Say whether the process still runs. A zombie (dead, not yet reaped) does not."""
    fields = _stat_fields(identity.pid)
    return fields is not None and int(fields[19]) == identity.started


def _stat_fields(pid: int) -> list[bytes] | None:
    """Read /proc/PID/stat from the third field (the state) on; None for a zombie too."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The second field is a name that may hold spaces and parentheses.
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else fields


def without_zombies(pids: Iterable[int]) -> list[int]:
    """Leave out what is dead and not yet reaped."""
    return [pid for pid in pids if _stat_fields(pid) is not None]


def open_pidfd(identity: ProcessIdentity) -> int | None:
    """Open a descriptor that is readable when the process has ended; None if it has already.

    Signals sent through it reach this process or none.
    """
    try:
        descriptor = os.pidfd_open(identity.pid)
    except OSError as error:
        # EINVAL: the pid belongs to a thread by now.
        if error.errno in (errno.ESRCH, errno.EINVAL):
            return None
        raise
    # Checked after opening: from here on the descriptor cannot change its meaning.
    if is_alive(identity):
        return descriptor
    os.close(descriptor)
    return None


def send(pidfd: int, number: signal.Signals) -> None:
    """Signal a process that may be gone."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def send_to(process: ProcessIdentity, number: signal.Signals) -> None:
    """Signal a process, if it still runs."""
    descriptor = open_pidfd(process)
    if descriptor is not None:
        send(descriptor, number)
        os.close(descriptor)


@asynccontextmanager
async def end_of(process: ProcessIdentity | None) -> AsyncIterator[asyncio.Event]:
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


def boot_id() -> str:
    """Name this run of the kernel: another after each reboot, the same in all its containers."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def kill_matching(find: Callable[[], Iterable[int]], *, within: float) -> bool:
    """SIGKILL processes until `find` names none; say whether that was reached in `within` seconds.

    Args:
        find: lists the pids to kill, without zombies; called again after each round, and once more
            for each pid found, since the pid may have changed hands in between.
        within: seconds.
    """
    end = time.monotonic() + within
    pause = 0.005
    while True:
        pidfds: dict[int, int] = {}
        try:
            for pid in find():
                try:
                    pidfds[pid] = os.pidfd_open(pid)
                except OSError:
                    continue
            if not pidfds:
                return not list(find())
            for pid in find():
                if pid in pidfds:
                    send(pidfds[pid], signal.SIGKILL)
        finally:
            for descriptor in pidfds.values():
                os.close(descriptor)
        if time.monotonic() >= end:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.1)


def with_environment(*entries: str) -> list[int]:
    """List the processes that were started with one of these `NAME=VALUE` in their environment."""
    wanted = [b"\0" + os.fsencode(entry) + b"\0" for entry in entries]
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # A zombie's is empty.
            environment = b"\0" + (folder / "environ").read_bytes() + b"\0"
        except OSError:
            continue  # gone, a kernel thread, or another user's
        if any(entry in environment for entry in wanted):
            found.append(int(folder.name))
    return found

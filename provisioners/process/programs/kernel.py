"""What the programs of the process provisioner ask of the kernel: processes, files, attributes.

Standard library only, and of that little: each import is paid at the start of every worker.
"""

# pathlib and contextlib are slow to import:
# ruff: noqa: PTH104, PTH123, PTH208, SIM105

import ctypes
import os

LOCK_DESCRIPTOR = 3
"""Carries the `flock` on a worker's folder in its shim."""
READ_BYTES = 65536

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38


def descendants(ancestor: int) -> list[int]:
    """List all descendants of a process, parents first."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := stat_fields(int(name))):
            children.setdefault(int(fields[1]), []).append(int(name))
    found = list(children.get(ancestor, ()))
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def children_of(parent: int) -> list[int]:
    """List the children of a process, zombies among them."""
    return [
        int(name)
        for name in os.listdir("/proc")
        if name.isdigit() and parent_of(int(name)) == parent
    ]


def parent_of(pid: int) -> int:
    """Give the pid of a process's parent; 0 if there is no such process."""
    fields = stat_fields(pid)
    return int(fields[1]) if fields else 0


def is_alive(pid: int, started: int = 0) -> bool:
    """Say whether a process runs; a zombie does not, nor another one with its pid.

    Args:
        pid: of the process.
        started: its `start_time`; 0: any.
    """
    fields = stat_fields(pid)
    return bool(fields) and fields[0] not in (b"Z", b"X") and started in (0, int(fields[19]))


def processes_in(cgroups: list[str]) -> list[int]:
    """List the processes in cgroups."""
    return [int(line) for cgroup in cgroups for line in read_file(f"{cgroup}/cgroup.procs").split()]


def stat_fields(pid: int) -> list[bytes]:
    """Read /proc/PID/stat from the third field (the state) on; empty if there is no such process.

    The second field is a name in parentheses that may hold spaces and parentheses itself.
    """
    return read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def start_time(pid: int) -> int:
    """Give a process's start time in clock ticks since boot: with the pid, its identity."""
    return int(stat_fields(pid)[19])


def send_signal(pid: int, number: int) -> None:
    """Signal a process, or the group of process -PID (man 2 kill), that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def join(cgroups: list[str]) -> None:
    """Move this process, which must be single-threaded, into cgroups.

    A process that moves itself by `tasks` (version 1) does not need the kernel's global lock, which
    takes up to 20 ms.

    Raises:
        OSError: the kernel refuses.
    """
    for cgroup in cgroups:
        if not (write_file(f"{cgroup}/tasks", "0") or write_file(f"{cgroup}/cgroup.procs", "0")):
            raise OSError(f"the cgroup {cgroup} cannot be joined")


def open_door(cgroup: str) -> int:
    """Open what a process of another user may write "0" to, to join a cgroup.

    The kernel asks who has opened it, not who writes (since 5.16; before, for version 1 only, any
    process may move itself).

    Raises:
        OSError: the kernel refuses.
    """
    try:
        return os.open(f"{cgroup}/tasks", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(f"{cgroup}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)


def oom_kills(cgroups: list[str]) -> int:
    """Count the kernel's memory kills in the worker's cgroups."""
    count = 0
    for cgroup in cgroups:
        for name in ("memory.events", "memory.oom_control"):
            for line in read_file(f"{cgroup}/{name}").splitlines():
                if line.startswith(b"oom_kill "):
                    count += int(line.split()[1])
    return count


def read_file(path: str) -> bytes:
    """Read a whole file; nothing if that is not possible."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def given_environment() -> dict[bytes, bytes]:
    """Give the environment that this program was started with."""
    entries = [entry.partition(b"=") for entry in read_file("/proc/self/environ").split(b"\0")]
    return {name: value for name, separator, value in entries if separator}


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything, in as many calls as it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_file(path: str, text: str) -> bool:
    """Write to a file that exists; False if that is not possible."""
    try:
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True


def replace_file(path: str, text: str) -> None:
    """Write a whole file or none: a reader never sees half of it."""
    temporary = f"{path}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(text.encode("utf-8", "replace"))
    os.rename(temporary, path)


def quoted(text: str) -> str:
    """Give a text as JSON."""
    printable = "".join(max(character, " ") for character in text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'


def write_shim_log(text: str) -> None:
    """Write to shim.log; a full disk must not end the worker."""
    try:
        os.write(2, f"{text}\n".encode("utf-8", "replace"))
    except OSError:
        pass


def prctl(option: int, value: int) -> None:
    """Change an attribute of this process, man 2 prctl.

    Raises:
        OSError: the kernel refuses.
    """
    library = ctypes.CDLL(None, use_errno=True)
    # The kernel takes unsigned longs and checks all their bits.
    nothing = ctypes.c_ulong(0)
    if library.prctl(option, ctypes.c_ulong(value), nothing, nothing, nothing) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def read_to_end(descriptor: int) -> bytes:
    """Read until all writers are gone."""
    data = b""
    while piece := os.read(descriptor, READ_BYTES):
        data += piece
    return data


def close_descriptors(*, but: set[int]) -> None:
    """Close all descriptors above the lock's, except some."""
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > LOCK_DESCRIPTOR and descriptor not in but:
            # Not `close`: it fails on the listing's own descriptor, which is closed already.
            os.closerange(descriptor, descriptor + 1)

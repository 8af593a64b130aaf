"""Memory and CPU limits by control group (cgroup), as far as the machine allows.

Version 2 is used if its memory and cpu controllers are there and writable, else what is writable of
the version 1 controllers memory, cpu and pids. A worker's cgroup is named by its execution, under a
parent named by the stack, under the cgroup that this process is in: limits set from outside (a
service's, a container's) hold for all workers together.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from provisioners.base import ResourceSpec

GIB = 2**30
MAX_PROCESSES = 4096
"""Processes and threads of one worker, where the pids controller is there: stops fork bombs."""
_PERIOD_MICROSECONDS = 100_000
_MAY_BE_MISSING = ("memory.memsw.limit_in_bytes", "memory.swap.max", "memory.oom.group")
_CONTROLLERS = ("memory", "cpu", "pids")


@dataclass(frozen=True)
class ParentCgroup:
    """A cgroup that workers' cgroups are made in."""

    path: Path
    version: int
    controllers: tuple[str, ...]
    own: Path | None = field(default=None, compare=False)
    """The cgroup of the same hierarchy that this process is in."""

    def make(self) -> None:
        """Make it, also when another process of this stack has just removed it."""
        self.path.mkdir(exist_ok=True)
        if self.version == 2:
            _delegate(self.path, self.controllers)


@dataclass(frozen=True)
class Cgroups:
    """Where this machine lets us make cgroups for workers; empty if it does not."""

    parents: tuple[ParentCgroup, ...] = field(default=())

    def enforces(self, controller: str) -> bool:
        """Say whether limits of this controller (memory, cpu, pids) can be set."""
        return any(controller in parent.controllers for parent in self.parents)

    def describe(self, controller: str) -> str | None:
        """Say for the log what enforces a controller's limits; None: nothing does."""
        for parent in self.parents:
            if controller in parent.controllers:
                return f"cgroup v{parent.version}"
        return None

    def create(self, name: str, spec: ResourceSpec) -> list[Path]:
        """Make a worker's cgroups, or find them, and set its limits.

        Raises:
            OSError: the kernel refuses.
        """
        made = []
        for parent in self.parents:
            parent.make()
            cgroup = parent.path / name
            cgroup.mkdir(exist_ok=True)
            for file_name, value in _limits(parent, spec):
                _write_limit(cgroup / file_name, value)
            made.append(cgroup)
        return made

    def folders_of(self, name: str) -> list[Path]:
        """Name a worker's cgroups, whether or not they exist."""
        return [parent.path / name for parent in self.parents]

    def own(self) -> list[Path]:
        """Name the cgroups that this process is in."""
        return [parent.own for parent in self.parents if parent.own is not None]

    def names(self) -> Iterator[str]:
        """List the workers that have a cgroup."""
        for parent in self.parents:
            with suppress(FileNotFoundError):
                yield from (entry.name for entry in parent.path.iterdir() if entry.is_dir())

    def release(self) -> None:
        """Remove the parents, if no worker is in them."""
        for parent in self.parents:
            with suppress(OSError):
                parent.path.rmdir()


def processes_in(cgroups: list[Path]) -> list[int]:
    """List the processes in cgroups that may be gone; zombies are not listed by version 2."""
    found: set[int] = set()
    for cgroup in cgroups:
        with suppress(OSError):
            found.update(int(line) for line in (cgroup / "cgroup.procs").read_text().split())
    return sorted(found)


def remove(cgroups: list[Path]) -> bool:
    """Remove cgroups that may be gone; False if processes are still in one."""
    gone = True
    for cgroup in cgroups:
        try:
            cgroup.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            gone = False
    return gone


def find_cgroups(stack: str) -> Cgroups:
    """Find out what this machine offers, by trying.

    Args:
        stack: name of the parent cgroup; another for each state folder.
    """
    mountinfo = Path("/proc/self/mountinfo").read_text()
    own = Path("/proc/self/cgroup").read_text()
    usable: list[ParentCgroup] = []
    for parent in candidates(mountinfo, own, stack):
        if _works(Cgroups((parent,))):
            if parent.version == 2:
                return Cgroups((parent,))
            usable.append(parent)
    return Cgroups(tuple(usable))


def candidates(mountinfo: str, own_cgroup: str, stack: str) -> Iterator[ParentCgroup]:
    """Name the cgroups that may serve as parents, version 2 first.

    Args:
        mountinfo: content of /proc/self/mountinfo.
        own_cgroup: content of /proc/self/cgroup.
        stack: name of the parent.
    """
    mounts = list(_mounts(mountinfo))
    own = _own_paths(own_cgroup)
    yield from _candidates_v2(mounts, own, stack)
    yield from _candidates_v1(mounts, own, stack)


def _limits(parent: ParentCgroup, spec: ResourceSpec) -> list[tuple[str, str]]:
    """Give file name and value of each limit, in the order in which they must be written."""
    memory = str(int(spec.memory_gbs * GIB))
    # The kernel takes no quota below one millisecond.
    quota = max(1000, int(spec.virtual_cpus * _PERIOD_MICROSECONDS))
    limits: list[tuple[str, str]] = []
    if "memory" in parent.controllers:
        if parent.version == 2:
            # oom.group: a worker that lost one process to the memory limit is ended as a whole.
            limits += [
                ("memory.max", memory),
                ("memory.swap.max", "0"),
                ("memory.oom.group", "1"),
            ]
        else:
            limits += [
                ("memory.limit_in_bytes", memory),
                ("memory.memsw.limit_in_bytes", memory),
            ]
    if "cpu" in parent.controllers:
        if parent.version == 2:
            limits.append(("cpu.max", f"{quota} {_PERIOD_MICROSECONDS}"))
        else:
            limits += [
                ("cpu.cfs_period_us", str(_PERIOD_MICROSECONDS)),
                ("cpu.cfs_quota_us", str(quota)),
            ]
    if "pids" in parent.controllers:
        limits.append(("pids.max", str(MAX_PROCESSES)))
    return limits


def _write_limit(path: Path, value: str) -> None:
    try:
        # Never creates the file: the kernel makes it, or has no such limit.
        with path.open("r+") as file:
            file.write(value)
    except FileNotFoundError:
        # Kernels without accounting for swap; the limit for memory still holds.
        if path.name not in _MAY_BE_MISSING:
            raise


def _works(cgroups: Cgroups) -> bool:
    name = f"probe-{os.getpid()}"
    try:
        cgroups.create(name, ResourceSpec(virtual_cpus=1, memory_gbs=1))
    except OSError:
        return False
    finally:
        remove(cgroups.folders_of(name))
        cgroups.release()
    return True


def _delegate(cgroup: Path, controllers: tuple[str, ...]) -> None:
    path = cgroup / "cgroup.subtree_control"
    missing = set(controllers) - set(path.read_text().split())
    if missing:
        path.write_text(" ".join(f"+{name}" for name in sorted(missing)))


@dataclass(frozen=True)
class _Mount:
    root: str
    point: Path
    kind: str
    controllers: frozenset[str]

    def folder_of(self, own: str) -> Path:
        """Find a cgroup in this mount, which may show only a part of the tree (containers)."""
        relative = os.path.relpath(own, self.root)
        return self.point if relative.startswith("..") else self.point / relative


def _mounts(text: str) -> Iterator[_Mount]:
    # man 5 proc: id parent device root point options [tags...] - kind source super-options
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        _, _, _, root, point, *_ = before.split()
        kind, _, options = after.split()[:3]
        if kind in ("cgroup", "cgroup2"):
            yield _Mount(root, Path(point), kind, frozenset(options.split(",")))


def _own_paths(text: str) -> dict[str, str]:
    """Map controller ('' = version 2) to this process's cgroup."""
    own = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            own[controller] = path
    return own


def _candidates_v2(mounts: list[_Mount], own: dict[str, str], stack: str) -> Iterator[ParentCgroup]:
    for mount in mounts:
        if mount.kind != "cgroup2" or "" not in own:
            continue
        base = mount.folder_of(own[""])
        # A cgroup with processes in it cannot hand controllers to children (unless it is the
        # root); then a sibling may do, where the tree was delegated to our user.
        for folder in dict.fromkeys((base, base.parent if base != mount.point else base)):
            try:
                offered = (folder / "cgroup.controllers").read_text().split()
                controllers = tuple(name for name in _CONTROLLERS if name in offered)
                if not {"memory", "cpu"} <= set(controllers):
                    continue
                _delegate(folder, controllers)
            except OSError:
                continue
            yield ParentCgroup(folder / stack, 2, controllers, own=base)


def _candidates_v1(mounts: list[_Mount], own: dict[str, str], stack: str) -> Iterator[ParentCgroup]:
    seen: set[str] = set()
    for mount in mounts:
        if mount.kind != "cgroup":
            continue
        # cpu is often mounted together with cpuacct; a controller may be mounted twice.
        controllers = tuple(
            name for name in _CONTROLLERS if name in mount.controllers and name in own
        )
        if controllers and not seen.intersection(controllers):
            seen.update(controllers)
            folder = mount.folder_of(own[controllers[0]])
            yield ParentCgroup(folder / stack, 1, controllers, own=folder)

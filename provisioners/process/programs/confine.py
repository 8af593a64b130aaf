"""How a program is kept to what is its own: another user, limits, a view of the file system.

Called in the child that becomes the program, before its first instruction. Standard library only.
"""

# pathlib and contextlib are slow to import:
# ruff: noqa: PTH103, PTH112, PTH120

import ctypes
import os
import resource

CLONE_NEWNS = 0x20000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT = 0x1, 0x2, 0x4, 0x20
MS_BIND, MS_REC, MS_SLAVE = 0x1000, 0x4000, 0x80000
"""man 2 mount, include/uapi/linux/mount.h"""


class Confinement:
    """What keeps a program to itself.

    Attributes:
        uid: the user and the group that it runs as; 0: those of the server.
        processes: RLIMIT_NPROC, for all processes of that user together; 0 = none.
        covers: folders that are closed to its user, and empty in its view but for `shows`.
        shows: what it needs of those folders, files or folders.
    """

    def __init__(self, words: list[str]) -> None:
        uid, processes, *paths = words
        self.uid = int(uid)
        self.processes = int(processes)
        self.covers = [path[1:] for path in paths if path[0] == "-"]
        self.shows = [path[1:] for path in paths if path[0] == "+"]

    def apply(self) -> None:
        """Take the view, the limits and the user; what root may do ends here.

        Raises:
            OSError: the kernel refuses.
        """
        if self.covers:
            take_view(self.covers, self.shows)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if not self.uid:
            return
        if self.processes:
            resource.setrlimit(resource.RLIMIT_NPROC, (self.processes, self.processes))
        os.setgroups([])
        os.setresgid(self.uid, self.uid, self.uid)
        os.setresuid(self.uid, self.uid, self.uid)


def take_view(covers: list[str], shows: list[str]) -> None:
    """Leave the server's mounts: what is covered is empty from here on, but for what is shown.

    Raises:
        OSError: the kernel refuses; it takes CAP_SYS_ADMIN.
    """
    library = ctypes.CDLL(None, use_errno=True)

    def check(result: int, what: str) -> None:
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")

    def mount(
        source: str, target: str, kind: "bytes | None", flags: int, data: bytes = b""
    ) -> None:
        result = library.mount(
            os.fsencode(source), os.fsencode(target), kind, ctypes.c_ulong(flags), data or None
        )
        check(result, f"mount {target}")

    check(library.unshare(CLONE_NEWNS), "unshare")
    # What is mounted here must not appear outside.
    mount("none", "/", None, MS_REC | MS_SLAVE)
    handles = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in shows]
    for cover in covers:
        mount("tmpfs", cover, b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=0755,size=1m,nr_inodes=4k")
    umask = os.umask(0o022)
    for path, handle in handles:
        itself = f"/proc/self/fd/{handle}"
        if os.path.isdir(itself):
            os.makedirs(path, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        mount(itself, path, None, MS_BIND | MS_REC)
        os.close(handle)
    os.umask(umask)
    for cover in covers:
        mount("none", cover, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)

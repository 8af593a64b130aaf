"""What a program of the server asks of the kernel for its own process, before anything else."""

import ctypes
import resource
from typing import Final

MOST_OPEN_FILES: Final = 65_536
"""Beyond this nothing here needs more; some programs, which inherit it, go through all numbers."""

_PR_SET_DUMPABLE: Final = 4
"""See prctl(2); Python has no name for it."""


def prepare_process() -> None:
    """Keep this process's memory from other processes of its user, and let it open many files.

    Functions may run as the same user. What is not dumpable cannot be traced, and the kernel gives
    its /proc/PID/environ, mem and fd to root only. That holds until a program is executed, so
    children are as usual. Where the kernel refuses, nothing changes.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if wanted > open_files_limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def open_files_limit() -> int:
    """Give how many files and connections this process can have open at the same time."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_OPEN_FILES if soft == resource.RLIM_INFINITY else soft

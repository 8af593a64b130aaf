"""What starts a program in the network of the embedded Temporal.

`python -I -S enter_main.py PID PROGRAM ARGUMENT...`, where PID is of a process in that network. It
is a program of its own since only a process with one thread may enter a user namespace.
"""

import ctypes
import os
import sys

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def _enter(file: int, kind: int) -> None:
    if _libc.setns(file, kind) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def main(pid: int, program: list[str]) -> None:
    """Enter the network of a process and become the program."""
    try:
        files = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in ("net", "user")]
        try:
            _enter(files[0], _CLONE_NEWNET)
        except PermissionError:
            # The network belongs to a user namespace, in which its owner has the rights for it.
            _enter(files[1], _CLONE_NEWUSER)
            _enter(files[0], _CLONE_NEWNET)
        for file in files:
            os.close(file)
    except OSError as error:
        sys.exit(f"control-plane: Temporal's network cannot be entered: {error.strerror}")
    os.execv(program[0], program)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

"""What a direct child runs first: it drops privileges and ties its life to its parent's.

This is a program of its own and not a `preexec_fn`, because code between fork and exec may deadlock
in a process with threads (gRPC's, for one). It runs as `python -I -S child_main.py PARENT SIGNAL
USER PROGRAM ARGUMENT...`, where USER is `-` or `uid:gid,gid,...`, and imports no project code.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, death_signal: int, user: str, program: list[str]) -> None:
    """Prepare this process and turn it into `program`. Returns never."""
    libc = ctypes.CDLL(None, use_errno=True)
    if user != "-":
        uid, groups = user.split(":")
        gids = [int(gid) for gid in groups.split(",")]
        os.setgroups(gids)
        os.setresgid(gids[0], gids[0], gids[0])
        os.setresuid(int(uid), int(uid), int(uid))
    # The kernel forgets the setting when the user changes, so it comes after that.
    if libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        # The parent died before it could be watched.
        os.kill(os.getpid(), signal.SIGKILL)
    # An ignored signal stays ignored across exec: those that Python ignores, and those that the
    # program that started us ignores (`nohup`, or a shell with `&`).
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.umask(0o077)
    try:
        os.execv(program[0], program)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.exit(f"cannot run {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])

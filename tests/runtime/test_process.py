"""What a server's process asks of the kernel: no reading of its memory, many open files."""

import os
import resource
import subprocess
import sys

import pytest

from runtime.process import MOST_OPEN_FILES

VICTIM = """
import ctypes, os, subprocess, sys
from runtime.process import prepare_process
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as after the execution of a program
if sys.argv[1] == "prepared":
    prepare_process()
print(os.getpid(), flush=True)
sys.stdin.read()
# What it does itself goes on as before, the start of programs included.
assert "fd" in os.listdir("/proc/self") and os.listdir("/proc/self/fd")
print(subprocess.run(["/bin/cat", "/proc/self/environ"], capture_output=True, check=True).stdout)
"""
THIEF = """
import os, sys
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    print(open(f"/proc/{sys.argv[1]}/environ").read())
except PermissionError:
    print("refused")
"""


@pytest.mark.parametrize("state", ["as it is", "prepared"])
def test_another_process_of_the_same_user_cannot_read_what_it_was_started_with(state: str) -> None:
    """The environment it was started with stays in its memory, whatever it removes later."""
    environment = {**os.environ, "THE_SECRET": "only-for-the-server"}
    with subprocess.Popen(
        [sys.executable, "-c", VICTIM, state],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as victim:
        assert victim.stdout is not None
        pid = victim.stdout.readline().strip()
        stolen = subprocess.run(
            [sys.executable, "-c", THIEF, pid],
            env={},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        out, _ = victim.communicate(timeout=60)
    assert victim.returncode == 0
    assert "only-for-the-server" in out
    if state == "prepared":
        assert stolen == "refused\n"
    else:
        assert "only-for-the-server" in stolen


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes() -> None:
    code = (
        "import resource; from runtime.process import *\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, {hard}))\n"
        "prepare_process(); print(open_files_limit())"
    )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (100, hard):
        ended = subprocess.run(
            [sys.executable, "-c", code.format(hard=wanted)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        expected = MOST_OPEN_FILES if wanted == resource.RLIM_INFINITY else wanted
        assert int(ended.stdout) == min(expected, MOST_OPEN_FILES)

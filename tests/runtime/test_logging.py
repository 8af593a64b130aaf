"""Logs show no secrets, also not in the traceback of an error."""

import os
import subprocess
import sys

import pytest

SECRET = "swordfish"

PROGRAM = """
import logging
from runtime.logging import configure_logging
import structlog

def fail():
    password = "".join(["sword", "fish"])
    raise RuntimeError("no luck")

configure_logging()
for logger in (structlog.get_logger("ours"), logging.getLogger("theirs")):
    try:
        fail()
    except RuntimeError:
        logger.exception("it_failed")
"""


def _run(stderr: int) -> None:
    # `rich` must be there, or nothing would be shown in any case.
    subprocess.run(
        [sys.executable, "-c", f"import rich\n{PROGRAM}"], stderr=stderr, check=True, timeout=30
    )


def _read_all(descriptor: int) -> str:
    seen = b""
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # a terminal's end, once no process has its other side open
            part = b""
        if not part:
            return seen.decode()
        seen += part


@pytest.mark.parametrize("terminal", [True, False])
def test_a_traceback_does_not_show_variables(*, terminal: bool) -> None:
    ours, theirs = os.openpty() if terminal else os.pipe()
    try:
        _run(theirs)
        os.close(theirs)
        seen = _read_all(ours)
    finally:
        os.close(ours)
    assert ("\x1b[" in seen) is terminal
    assert seen.count("it_failed") == 2
    assert seen.count("RuntimeError: no luck") == 2
    assert SECRET not in seen

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


ATTACK = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b2J\u202e"
HOSTILE = f"""
import logging, structlog
from runtime.logging import configure_logging
configure_logging()
text = {ATTACK!r}
structlog.get_logger("t").warning(text, function=text, others=[text], error=ValueError(text))
logging.getLogger("library").warning("%s", text)
try:
    raise ValueError(text)
except ValueError:
    structlog.get_logger("t").exception("it_failed")
"""


def test_a_name_does_nothing_to_the_terminal_of_the_server() -> None:
    ours, theirs = os.openpty()
    try:
        subprocess.run([sys.executable, "-c", HOSTILE], stderr=theirs, check=True, timeout=60)
        os.close(theirs)
        seen = _read_all(ours)
    finally:
        os.close(ours)
    assert seen.count("x1b]52;c;ZXZpbA==") >= 5
    for part in ("\x1b]", "\x07", "\x1b[2J", "\x9b", "\u202e"):
        assert part not in seen

"""What `control-plane run` shows on standard error while it works."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from control_plane._console.foreign import log_lines, one_line
from control_plane._console.output import echo, is_terminal

_PAUSE_SECONDS: Final = 1.0


class Display(Protocol):
    """Shows what happens; for one thread."""

    def say(self, text: str) -> None:
        """Show a line about what is being done."""

    def log(self, text: str) -> None:
        """Show a line that the function has written."""

    def status(self, text: str, *, matters: bool = False) -> None:
        """Show how far it is, in place of what was shown before.

        Where nothing can be replaced, only what matters is shown, and not all of it.
        """


class _Plain:
    """One line after the other, for pipes and files."""

    def __init__(self) -> None:
        self._status = ""
        self._said_at = 0.0

    def say(self, text: str) -> None:
        echo(one_line(text), err=True)

    def log(self, text: str) -> None:
        for each in log_lines(text, colours=False):
            echo(each, err=True)

    def status(self, text: str, *, matters: bool = False) -> None:
        now = time.monotonic()
        if matters and text != self._status and now > self._said_at + _PAUSE_SECONDS:
            self.say(text)
            self._status, self._said_at = text, now


@contextmanager
def display() -> Iterator[Display]:
    """Give a display: lines, and on a terminal a last line that moves."""
    if not is_terminal(sys.stderr):
        yield _Plain()
        return
    # Imported here: rich takes longer to import than the rest of a command.
    from control_plane._console.terminal import StatusLine  # noqa: PLC0415 - see above

    class Terminal:
        def say(self, text: str) -> None:
            line.say(text)

        def log(self, text: str) -> None:
            line.log(text)

        def status(self, text: str, *, matters: bool = False) -> None:
            del matters
            line.show("", detail=text, progress="")

    with StatusLine() as line:
        yield Terminal()

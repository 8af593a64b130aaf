"""What `control-plane run` shows on standard error while it works."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

_PAUSE_SECONDS: Final = 1.0


class Display(Protocol):
    """Shows what happens; for one thread."""

    def say(self, text: str) -> None:
        """Show a line about what is being done."""

    def log(self, line: str) -> None:
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
        print(text, file=sys.stderr, flush=True)

    def log(self, line: str) -> None:
        self.say(line)

    def status(self, text: str, *, matters: bool = False) -> None:
        now = time.monotonic()
        if matters and text != self._status and now > self._said_at + _PAUSE_SECONDS:
            self.say(text)
            self._status, self._said_at = text, now


@contextmanager
def display() -> Iterator[Display]:
    """Give a display: lines, and on a terminal a last line that moves."""
    if not sys.stderr.isatty():
        yield _Plain()
        return
    try:
        # Comes with the stack; without it there are plain lines.
        from rich.console import Console  # noqa: PLC0415 - see above
    except ImportError:
        yield _Plain()
        return
    console = Console(stderr=True, highlight=False)

    class Terminal:
        def say(self, text: str) -> None:
            console.print(text, markup=False, soft_wrap=True, style="dim")

        def log(self, line: str) -> None:
            console.print(line, markup=False, soft_wrap=True)

        def status(self, text: str, *, matters: bool = False) -> None:
            del matters
            moving.update(f"[dim]{text.replace('[', chr(92) + '[')}[/]")

    with console.status("") as moving:
        yield Terminal()

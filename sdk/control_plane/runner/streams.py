"""The worker's output: readable line by line while it runs."""

import sys
from contextlib import suppress
from io import TextIOWrapper


def prepare_streams() -> None:
    """Make each line of stdout and stderr visible at once, as UTF-8 whatever the locale is."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)


def say(text: str) -> None:
    """Write a line of the runner's own to stderr; a broken stream is no reason to fail."""
    with suppress(Exception):
        print(f"control-plane: {text}", file=sys.stderr, flush=True)


def flush() -> None:
    """Hand over what is still buffered."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()

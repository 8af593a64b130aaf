"""What commands print: JSON, words in colours, times.

What is asked for goes to standard output, remarks about it to standard error. Nothing else than
`echo` writes, apart from rich in `terminal`; it makes foreign text visible (`foreign`).
"""

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

import click

from control_plane._console.foreign import Safe, is_raw, joined, json_of, one_line, visible

STYLES = {
    "SUCCEEDED": "green",
    "READY": "green",
    "FAILED": "red",
    "TIMED_OUT": "red",
    "CANCELLED": "yellow",
    "CANCELLING": "yellow",
    "RUNNING": "cyan",
    "PROVISIONING": "blue",
    "PENDING": "yellow",
    "QUEUED": "yellow",
    "deleting": "yellow",
}
"""Colours of words that stand for states."""

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, with all that the server says."
)


def echo(*parts: str, err: bool = False) -> None:
    """Print a text and a line break. What hides in it is made visible, but for what is `Safe`.

    Args:
        *parts: put together without anything in between.
        err: print it to standard error.
    """
    # In a pipe click would take out colours, and with --raw none may be missing.
    click.echo(joined(*parts), err=err, color=True if is_raw() else None)


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a person looks at a stream, rather than a program."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def print_json(value: object) -> None:
    """Print one JSON document on one line; for a person, on more."""
    indent = 2 if is_terminal(sys.stdout) else None
    echo(json_of(value, indent=indent))


def remark(text: str) -> None:
    """Say something about what is printed."""
    shown = visible(text)
    echo(Safe(click.style(shown, dim=True)) if has_colours(sys.stderr) else shown, err=True)


def coloured(text: str, stream: TextIO | None = None) -> Safe:
    """Give a word for a state its colour, where there are colours."""
    shown, style = one_line(text), STYLES.get(text)
    if style is None or not has_colours(stream or sys.stdout):
        return shown
    return Safe(click.style(shown, fg=style))


def heading(text: str) -> Safe:
    """Give the title of a section its form."""
    shown = visible(text)
    return Safe(click.style(shown, bold=True)) if has_colours(sys.stdout) else shown


def has_colours(stream: TextIO) -> bool:
    """Tell whether what is written to a stream may be coloured."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def seconds(value: float | None) -> str:
    """Give a length of time in at most two units: `0s`, `59s`, `3m 20s`, `2h 5m`, `4d 1h`."""
    if value is None:
        return ""
    left = max(0, int(value))
    units = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
    for (size, unit), following in zip(units, (*units[1:], None), strict=True):
        if left >= size:
            whole, rest = divmod(left, size)
            second = f" {rest // following[0]}{following[1]}" if following else ""
            return f"{whole}{unit}{second if second[1:2] != '0' else ''}"
    return "0s"


def age(time: datetime) -> str:
    """Give the time that has passed since then."""
    return seconds((datetime.now(UTC) - time).total_seconds())


def moment(time: datetime | None) -> str:
    """Give a point in time: the local one, with its offset from UTC."""
    return "" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def progress_text(progress: Mapping[str, Any] | None) -> Safe:
    """Give what a function has reported of its progress, on one line."""
    if not progress:
        return Safe()
    fields = dict(progress)
    done, total, message = (fields.pop(name, None) for name in ("done", "total", "message"))
    parts = []
    if done is not None:
        share = ""
        if isinstance(done, int | float) and isinstance(total, int | float) and total > 0:
            share = f" ({100 * done / total:.0f}%)"
        parts.append(f"{done}" if total is None else f"{done}/{total}{share}")
    if message is not None:
        parts.append(str(message))
    if fields:
        parts.append(json.dumps(fields, ensure_ascii=False))
    return one_line(" ".join(parts))


def cut(text: str, most: int) -> str:
    """Give the beginning of a long text, and how long it is."""
    if len(text) <= most:
        return text
    return f"{text[:most]}... ({len(text):,} characters)"

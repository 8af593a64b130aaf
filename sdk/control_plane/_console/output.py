"""What commands print: JSON, words in colours, times.

What is asked for goes to standard output, remarks about it to standard error.
"""

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

import click

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


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a person looks at a stream, rather than a program."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def print_json(value: object) -> None:
    """Print one JSON document on one line; for a person, on more."""
    indent = 2 if is_terminal(sys.stdout) else None
    click.echo(json.dumps(value, ensure_ascii=False, indent=indent))


def remark(text: str) -> None:
    """Say something about what is printed."""
    click.echo(click.style(text, dim=True) if _has_colours(sys.stderr) else text, err=True)


def coloured(text: str, stream: TextIO | None = None) -> str:
    """Give a word for a state its colour, where there are colours."""
    style = STYLES.get(text)
    if style is None or not _has_colours(stream or sys.stdout):
        return text
    return click.style(text, fg=style)


def heading(text: str) -> str:
    """Give the title of a section its form."""
    return click.style(text, bold=True) if _has_colours(sys.stdout) else text


def _has_colours(stream: TextIO) -> bool:
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


def progress_text(progress: Mapping[str, Any] | None) -> str:
    """Give what a function has reported of its progress, on one line."""
    if not progress:
        return ""
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


def one_line(text: str) -> str:
    """Give a text without line breaks, and with one space between its words."""
    return " ".join(text.split())


def cut(text: str, most: int) -> str:
    """Give the beginning of a long text, and how long it is."""
    if len(text) <= most:
        return text
    return f"{text[:most]}... ({len(text):,} characters)"

"""What commands print: JSON, tables, times.

On a terminal tables are rich's, in colours. In a pipe they are plain text in columns, with no line
cut. What is asked for goes to standard output, remarks about it to standard error.
"""

# ruff: noqa: PLC0415 - rich takes longer to import than the rest of a command

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console

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


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    no_wrap: bool = False
    """Whether a cell stays on one line, as ids do: they are to be copied."""
    right: bool = False


def is_terminal(stream: TextIO) -> bool:
    """Tell whether somebody looks at a stream, rather than a program."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def console(*, stderr: bool = False) -> "Console":
    """Make rich's console for a terminal. It has no colours where NO_COLOR is set."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


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


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; None is an empty cell."""
    cells = [["" if cell is None else _one_line(str(cell)) for cell in row] for row in rows]
    if is_terminal(sys.stdout):
        _print_rich_table(columns, cells)
    else:
        for line in plain_table(columns, cells):
            click.echo(line)


def plain_table(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> Iterable[str]:
    """Give the lines of a table: columns that begin below each other, two spaces between them."""
    titles = [column.title for column in columns]
    widths = [max(len(row[i]) for row in (titles, *cells)) for i in range(len(columns))]
    for row in (titles, *cells):
        parts = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        yield "  ".join(parts).rstrip()


def _print_rich_table(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    least = 0
    for number, column in enumerate(columns):
        width = max(len(column.title), *(len(row[number]) for row in cells), 0)
        if not column.no_wrap:
            width = min(width, _NARROWEST)
        least += width + _GAP
        table.add_column(
            column.title,
            no_wrap=column.no_wrap,
            min_width=width,
            overflow="fold",
            justify="right" if column.right else "left",
        )
    for row in cells:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    screen = console()
    # What does not fit is broken by the terminal: better than columns of five letters.
    screen.print(table, width=max(screen.width, least), crop=False)


_GAP = 2
"""Spaces between two columns."""
_NARROWEST = 30
"""How far a column may be squeezed by others before the table is wider than the terminal."""


def _one_line(text: str) -> str:
    return " ".join(text.split())


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
    return _one_line(" ".join(parts))


def cut(text: str, most: int) -> str:
    """Give the beginning of a long text, and how long it is."""
    if len(text) <= most:
        return text
    return f"{text[:most]}... ({len(text):,} characters)"

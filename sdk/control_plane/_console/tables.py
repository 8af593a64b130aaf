"""Tables, as commands print them.

On a terminal they are rich's, in colours. In a pipe they are plain text in columns, and no line is
cut.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from control_plane._console.foreign import one_line
from control_plane._console.output import echo, is_terminal


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    no_wrap: bool = False
    """Whether a cell stays on one line, as ids do: they are to be copied."""
    right: bool = False


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; None is an empty cell."""
    cells = [["" if cell is None else one_line(str(cell)) for cell in row] for row in rows]
    if is_terminal(sys.stdout):
        # Imported here: rich takes longer to import than the rest of a command.
        from control_plane._console import terminal  # noqa: PLC0415 - see above

        table = terminal.Table()
        for number, column in enumerate(columns):
            longest = max((len(row[number]) for row in cells), default=0)
            table.add_column(
                column.title, longest=longest, no_wrap=column.no_wrap, right=column.right
            )
        table.show(cells)
    else:
        for line in plain_table(columns, cells):
            echo(line)


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

"""What commands show on a terminal, with rich: tables, trees, a line that changes.

Imported only where there is a terminal: rich takes longer to import than the rest of a command.
"""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.status import Status
from rich.table import Table as RichTable
from rich.text import Text
from rich.tree import Tree as RichTree

from control_plane._console.foreign import log_lines, one_line
from control_plane._console.output import STYLES

_GAP = 2
"""Spaces between two columns."""
_NARROWEST = 30
"""How far a column may be squeezed by others before the table is wider than the terminal."""


def console(*, stderr: bool = False) -> Console:
    """Make rich's console for a terminal. It has no colours where NO_COLOR is set."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def words(text: str, style: str = "") -> Text:
    """Make rich's text, on one line, of a foreign one: what hides in it is visible."""
    return Text(one_line(text), style=style)


class Table:
    """A table; cells that name a state have its colour."""

    def __init__(self) -> None:
        self._table = RichTable(
            box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold"
        )
        self._least = 0

    def add_column(self, title: str, *, longest: int, no_wrap: bool, right: bool) -> None:
        """Add a column. `longest`: the characters of its longest cell."""
        width = max(len(title), longest)
        if not no_wrap:
            width = min(width, _NARROWEST)
        self._least += width + _GAP
        self._table.add_column(
            title,
            no_wrap=no_wrap,
            min_width=width,
            overflow="fold",
            justify="right" if right else "left",
        )

    def show(self, rows: Iterable[Sequence[str]]) -> None:
        """Print it with these rows."""
        for row in rows:
            self._table.add_row(*(words(cell, STYLES.get(cell, "")) for cell in row))
        screen = console()
        # What does not fit is broken by the terminal: better than columns of five letters.
        screen.print(self._table, width=max(screen.width, self._least), crop=False)


class Tree:
    """A tree of calls, or a branch of one."""

    def __init__(self, branch: RichTree | None = None) -> None:
        self._branch = branch or RichTree("", hide_root=True, guide_style="dim")

    def add(self, name: str, *, call_id: str, state: str, rest: str) -> "Tree":
        """Add a call; gives the branch for those below it."""
        text = Text("  ").join(
            (
                words(name),
                words(call_id, "dim"),
                words(state, STYLES.get(state, "")),
                words(rest, "dim"),
            )
        )
        return Tree(self._branch.add(text))

    def add_more(self) -> None:
        """Say that there are more."""
        self._branch.add("...")

    def show(self) -> None:
        """Print it."""
        console().print(self._branch)


class StatusLine:
    """A line of standard error that changes, below what is printed. Use as a context manager."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._status = Status("", console=self._console, refresh_per_second=8)

    def __enter__(self) -> "StatusLine":
        self._status.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def show(self, state: str, *, detail: str, progress: str) -> None:
        """Change the line: a state in its colour, then what is known of it."""
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append_text(words(state, STYLES.get(state, "")))
        if detail:
            text.append_text(words(detail, "dim"))
        if progress:
            text.append("  ").append_text(words(progress))
        self._status.update(text)

    def say(self, text: str) -> None:
        """Print a line above, about what is done."""
        self._console.print(words(text, "dim"), soft_wrap=True)

    def log(self, line: str) -> None:
        """Print a line of a log above; it may hold colours."""
        for each in log_lines(line, colours=True):
            self._console.print(Text.from_ansi(each), soft_wrap=True)


class StageLine:
    """A line of standard output that changes, until its last text is kept."""

    def __init__(self) -> None:
        self._console = console()
        self._status = self._console.status("")

    def __enter__(self) -> "StageLine":
        self._status.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def show(self, line: str) -> None:
        """Change the line."""
        self._status.update(words(line, "dim"))

    def keep(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(words(line), soft_wrap=True)

"""Reading logs page by page from a server whose offsets are its own business.

The server's offset is an opaque text, and it may have none. Ours therefore says: the last offset
that it gave, how many of the lines after it are already ours, and how much was kept so far.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from provisioners.base import LogPage
from provisioners.external.protocol import LogsAnswer

MAX_LINE_BYTES = 64 * 2**10
"""Longer lines come in pieces."""
_PAGE_BYTES = 2**20
_PAGE_LINES = 10_000
_EMPTY_PAGES_FOLLOWED = 10

Fetch = Callable[[str | None], Awaitable[LogsAnswer]]
"""Asks the server for the lines after an offset of its own; None is the start."""


@dataclass(frozen=True, kw_only=True)
class LogPosition:
    """What is already ours of a worker's log."""

    cursor: str | None = None
    """The server's offset; None = its start."""
    skip: int = 0
    """Lines behind the cursor that are ours already."""
    kept: int = 0
    """Bytes so far, each line with its newline."""
    closed: bool = False
    """Nothing more is to be read."""

    @classmethod
    def parse(cls, offset: str) -> "LogPosition":
        """Read an earlier `next_offset`."""
        if not offset:
            return cls()
        cursor, skip, kept, closed = json.loads(offset)
        return cls(cursor=cursor, skip=skip, kept=kept, closed=closed)

    def __str__(self) -> str:
        # ASCII, whatever the cursor holds.
        return json.dumps([self.cursor, self.skip, self.kept, self.closed], separators=(",", ":"))

    def after(self, answer: LogsAnswer) -> "LogPosition":
        """Give the position when all lines of an answer have been taken."""
        count = len(answer.log_lines)
        if answer.next_offset in (None, self.cursor):
            return replace(self, skip=max(self.skip, count))
        return replace(self, cursor=answer.next_offset, skip=max(0, self.skip - count))


async def read_page(fetch: Fetch, *, offset: str, limit_bytes: int) -> LogPage:
    """Read the next lines, about 1 MiB and 10,000 lines at most.

    Args:
        fetch: asks the server.
        offset: "" for the start, or an earlier `next_offset`.
        limit_bytes: what is kept of one worker's log; then a last line says that it is cut.
    """
    position = LogPosition.parse(offset)
    if position.closed:
        return LogPage(lines=[], next_offset=offset, complete=True)
    for _ in range(_EMPTY_PAGES_FOLLOWED):
        answer = await fetch(position.cursor)
        if len(answer.log_lines) > position.skip:
            return _take(position, answer, limit_bytes)
        following = position.after(answer)
        if following == position:
            break
        position = following
    # A page without lines leaves the offset where it is.
    return LogPage(lines=[], next_offset=offset)


def last_line(offset: str, text: str) -> LogPage:
    """End a log with a line of our own."""
    position = replace(LogPosition.parse(offset), closed=True)
    return LogPage(lines=[f"[control-plane: {text}]"], next_offset=str(position), complete=True)


def _take(position: LogPosition, answer: LogsAnswer, limit_bytes: int) -> LogPage:
    lines: list[str] = []
    skip, kept = position.skip, position.kept
    for line in answer.log_lines[position.skip :]:
        data = line.encode()
        if kept + len(data) + 1 > limit_bytes:
            lines += _pieces(data[: _boundary(data, limit_bytes - kept)])
            cut = last_line(
                str(position), f"output is cut here; the limit of {limit_bytes} bytes is reached"
            )
            return replace(cut, lines=lines + cut.lines)
        lines += _pieces(data) or [""]
        kept += len(data) + 1
        skip += 1
        if kept - position.kept >= _PAGE_BYTES or skip - position.skip >= _PAGE_LINES:
            break
    if skip == len(answer.log_lines):
        following = replace(position.after(answer), kept=kept)
    else:
        following = replace(position, skip=skip, kept=kept)
    return LogPage(lines=lines, next_offset=str(following))


def _pieces(data: bytes) -> list[str]:
    pieces = []
    start = 0
    while start < len(data):
        end = _boundary(data, start + MAX_LINE_BYTES)
        pieces.append(data[start:end].decode())
        start = end
    return pieces


def _boundary(data: bytes, end: int) -> int:
    """Move a cut back so that it does not split a UTF-8 character."""
    end = min(max(end, 0), len(data))
    while 0 < end < len(data) and data[end] & 0xC0 == 0x80:
        end -= 1
    return end

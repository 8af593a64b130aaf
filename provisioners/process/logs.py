"""The output files of workers: reads them as complete lines, and tells when they have grown."""

import os
from pathlib import Path

from core.ids import ExecutionId
from provisioners.base import LogPage
from provisioners.files import UnfitFileError, open_regular

PAGE_BYTES = 2**20
PAGE_LINES = 10_000
"""A page of empty lines would have a million, and take a hundred times its size in memory."""


def read_page(path: Path, *, offset: str, ended: bool, max_line_bytes: int) -> LogPage:
    """Read at most about 1 MiB and 10,000 lines from a byte offset.

    A line longer than `max_line_bytes` comes in pieces, at most that long. Bytes that are not
    UTF-8, and NUL, which Postgres does not store, become U+FFFD.

    Args:
        path: the output file; it may not exist yet.
        offset: "" for the start, or an earlier `next_offset`: the index of a byte.
        ended: also give the last line when it has no newline.
        max_line_bytes: at least 4, the longest UTF-8 character.
    """
    start = int(offset or 0)
    page_bytes = max(PAGE_BYTES, 2 * max_line_bytes)
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            file.seek(start)
            data = file.read(page_bytes)
    except (FileNotFoundError, UnfitFileError):
        return LogPage(lines=[], next_offset=offset)
    lines: list[str] = []
    position = 0
    while position < len(data) and len(lines) < PAGE_LINES:
        newline = data.find(b"\n", position, position + max_line_bytes + 1)
        if newline >= 0:
            end, following = newline, newline + 1
        elif len(data) - position > max_line_bytes:
            end = following = _character_start(data, position, position + max_line_bytes)
        elif ended and len(data) < page_bytes:
            end = following = len(data)
        else:
            break
        lines.append(_text(data[position:end]))
        position = following
    return LogPage(lines=lines, next_offset=str(start + position) if position else offset)


def _character_start(data: bytes, start: int, end: int) -> int:
    """Move a cut back so that it does not split a UTF-8 character."""
    for cut in range(end, max(start, end - 4), -1):
        if data[cut] & 0xC0 != 0x80:
            return cut
    return end


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode("utf-8", "replace").replace("\0", "\ufffd")


class OutputSizes:
    """How much of each worker's output was seen, so that `wait` ends early only for what is new."""

    def __init__(self) -> None:
        self._seen: dict[ExecutionId, int] = {}

    def has_grown(self, execution_id: ExecutionId, path: Path) -> bool:
        """Say whether there is more output than was seen; from now on this much was."""
        size = size_of(path)
        grown = size > self._seen.get(execution_id, 0)
        self._seen[execution_id] = size
        return grown

    def note_page(
        self, execution_id: ExecutionId, page: LogPage, *, offset: str, size: int
    ) -> None:
        """Learn that a page was read from `offset` on, of a file that had this size before."""
        # After a full page `wait` must not sleep on the rest; after a partial line it must.
        position = int(page.next_offset or 0)
        full = len(page.lines) >= PAGE_LINES
        more = full or position - int(offset or 0) > PAGE_BYTES // 2
        self._seen[execution_id] = position if more else size

    def drop(self, execution_id: ExecutionId) -> None:
        """Forget a worker."""
        self._seen.pop(execution_id, None)


def size_of(path: Path) -> int:
    """Give the size of a file; 0 if it does not exist."""
    try:
        return path.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0

"""Times in which something lasted, as tests of limits compare them."""

from collections.abc import Iterable
from datetime import datetime
from typing import TypeVar

Time = TypeVar("Time", float, datetime)


def most_at_once(intervals: Iterable[tuple[Time, Time]]) -> int:
    """Give how many intervals were open at the same moment, at most."""
    changes: list[tuple[Time, int]] = []
    for begin, end in intervals:
        # An end at the same moment as a beginning sorts before it.
        changes += [(begin, 1), (end, -1)]
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most

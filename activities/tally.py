"""What one step of the sweep has repaired, and how much it may still repair."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

MAX_REPAIRS: Final = 1000
"""Repairs of one sort in one sweep at most; the next one goes on."""
LEFT: Final = "repairs left for the next sweep"

_AT_ONCE = 20
"""Calls under way at the same time."""

T = TypeVar("T")


class Tally:
    """Counts repairs by what a sweep's result says of them, after the number."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._made: Counter[str] = Counter()

    @property
    def counts(self) -> dict[str, int]:
        """What was repaired, and how often."""
        return {name: count for name, count in self._counts.items() if count}

    def add(self, what: str, count: int = 1) -> None:
        """Count repairs that were made, or left."""
        self._counts[what] += count

    async def repair_each(
        self,
        things: Sequence[T],
        repair: Callable[[T], Awaitable[str | None]],
        *,
        limit: int = MAX_REPAIRS,
    ) -> None:
        """Look at each, some at once, and count what was done.

        Args:
            things: what may need a repair.
            repair: makes it; returns what it has done, or None.
            limit: after so many repairs of this sort, in all calls with the same `repair`, the
                rest is left for the next sweep.
        """
        sort = repair.__name__
        start = 0
        while start < len(things):
            allowed = min(_AT_ONCE, limit - self._made[sort])
            if allowed <= 0:
                self.add(LEFT, len(things) - start)
                return
            some = things[start : start + allowed]
            start += len(some)
            # One that fails neither leaves the others behind, under way, nor stops their count.
            results = await asyncio.gather(
                *(repair(thing) for thing in some), return_exceptions=True
            )
            for what in results:
                if isinstance(what, str):
                    self.add(what)
                    self._made[sort] += 1
            for failure in results:
                if isinstance(failure, BaseException):
                    raise failure

"""How many connections are open, and which of them must go when there are too many."""

from typing import Final, Protocol

from runtime.process import open_files_limit

MOST_CONNECTIONS: Final = 10_000
"""Each takes up to 64 KiB while its head is incomplete."""

_LEAST_RESERVE: Final = 48
_LARGEST_RESERVE: Final = 1024
"""Files for all else: Postgres, Temporal, logs, and one connection that is being refused."""
_FULL: Final = 0.75
"""From this part of the limit on, no connection is kept for another request."""


class Waiting(Protocol):
    """A connection that has not sent the head of a request yet."""

    def give_up(self) -> None:
        """Close it at once."""
        ...


class Connections:
    """The connections of one server.

    One that has sent no request is worth less than one that comes: at the limit the oldest of these
    is closed. So whoever opens connections and says nothing keeps nobody out.

    Args:
        limit: how many may be open at the same time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._count = 0
        self._waiting: dict[Waiting, None] = {}

    @property
    def are_scarce(self) -> bool:
        """Whether a connection should end with its answer."""
        return self._count >= self.limit * _FULL

    def opened(self, connection: Waiting) -> bool:
        """Count one more; tells whether there is room for it. `closed` must follow in any case."""
        self._count += 1
        if self._count > self.limit:
            oldest = next(iter(self._waiting), None)
            if oldest is None:
                return False
            del self._waiting[oldest]
            oldest.give_up()
        self._waiting[connection] = None
        return True

    def sent_a_request(self, connection: Waiting) -> None:
        """Keep it: its first request has a head."""
        self._waiting.pop(connection, None)

    def closed(self, connection: Waiting) -> None:
        """Count one less."""
        self._count -= 1
        self._waiting.pop(connection, None)


def connections_limit(wanted: int | None) -> int:
    """Give how many connections this process can have, or `wanted` if that is less.

    A quarter of the open files is left to all else: at least 48, at most 1,024.
    """
    files = open_files_limit()
    reserve = min(max(files // 4, _LEAST_RESERVE), _LARGEST_RESERVE)
    return max(1, min(files - reserve, MOST_CONNECTIONS if wanted is None else wanted))

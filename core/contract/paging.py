"""Pages of lists and logs: sizes and offsets."""

import re
from dataclasses import dataclass
from typing import Final, Self

from core.errors import OffsetIsInvalidError

MAX_INVOCATIONS_PER_PAGE: Final = 50
MAX_LOG_LINES_PER_PAGE: Final = 250

_INTEGER = re.compile(r"-?[0-9]+")


def _parse_integer(text: str) -> int:
    # More digits than a time or a line number can have; also keeps int() from being expensive.
    if len(text) > 30 or _INTEGER.fullmatch(text) is None:
        raise OffsetIsInvalidError
    return int(text)


@dataclass(frozen=True)
class InvocationOffset:
    """Where a page of invocations begins: this invocation, which need not exist, and older ones."""

    creation_time: int
    """Epoch seconds."""
    invocation_id: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the form `<creation_time>,<invocation_id>`.

        Raises:
            OffsetIsInvalidError: there is no comma, or no integer before it.
        """
        creation_time, comma, invocation_id = text.partition(",")
        if not comma:
            raise OffsetIsInvalidError
        return cls(_parse_integer(creation_time), invocation_id)

    def __str__(self) -> str:
        return f"{self.creation_time},{self.invocation_id}"


def parse_log_offset(text: str) -> int:
    """Read a log offset: the index of a line, from 0, in decimal digits.

    Raises:
        OffsetIsInvalidError: it is anything else.
    """
    index = _parse_integer(text)
    if index < 0:
        raise OffsetIsInvalidError
    return index


def page_size(requested: int | None, *, maximum: int) -> int:
    """Give the size of a page: the maximum unless fewer entries are asked for."""
    return maximum if requested is None else min(requested, maximum)

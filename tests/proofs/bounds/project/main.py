"""Functions that write and yield far too much."""

import os
from collections.abc import Iterator


def greet(name: str = "world") -> str:
    return f"Hello, {name}!"


def print_much(mib: int, piece: str) -> int:
    """Print so many MiB; returns the bytes."""
    block = (piece * (2**20 // len(piece) + 1))[: 2**20].encode()
    for _ in range(mib):
        left = memoryview(block)
        while left:
            left = left[os.write(1, left) :]
    return mib * 2**20


def yield_much(count: int, size: int) -> Iterator[str]:
    """Yield so many texts of a size; the last one says that it is the last."""
    text = "x" * size
    for _ in range(count):
        yield text
    yield "the last"

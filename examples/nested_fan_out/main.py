"""How many primes there are below a number: calls that make calls that make calls.

python main.py 1000000
"""

import sys
from itertools import pairwise

from control_plane import function


@function(cpu=0.5, memory="256 MiB", max_concurrency=2)
def total(below: int, *, blocks: int = 2, pieces: int = 3) -> int:
    """Divide the numbers into blocks, and add up what the blocks give."""
    ranges = [(low, high, pieces) for low, high in divided(0, below, blocks)]
    return sum(block.starmap(ranges, ordered=False))


@function(cpu=0.5, memory="256 MiB", max_concurrency=8)
async def block(low: int, high: int, pieces: int) -> int:
    """Divide a block into pieces, and add up what the pieces give."""
    ranges = divided(low, high, pieces)
    return sum([count async for count in piece.starmap_async(ranges, ordered=False)])


@function(cpu=0.5, memory="256 MiB", max_concurrency=8)
def piece(low: int, high: int) -> int:
    """Count the primes from `low` to below `high`."""
    low = max(low, 2)
    if high <= low:
        return 0
    is_prime = bytearray([1]) * (high - low)
    for divisor in range(2, int(high**0.5) + 1):
        first = max(divisor * divisor, -(-low // divisor) * divisor)
        is_prime[first - low :: divisor] = bytes(len(range(first, high, divisor)))
    return sum(is_prime)


def divided(low: int, high: int, parts: int) -> list[tuple[int, int]]:
    """Divide a range into so many of about the same length."""
    bounds = [low + (high - low) * part // parts for part in range(parts + 1)]
    return list(pairwise(bounds))


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print(total.options(project="nested-fan-out").call(number))

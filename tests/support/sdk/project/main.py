"""The project that the library's tests deploy. Functions wait for files, never for the time."""

import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from control_plane import InvocationCancelledError, current, function, progress


def wait_for_file(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.02)


@function(max_concurrency=4, memory="256 MiB")
def square(number: int) -> int:
    return number * number


@function(cpu=0.5, memory="256 MiB")
def join(first: str, second: str = "-", *, times: int = 1) -> str:
    return f"{first}{second}" * times


@function(cpu=0.5)
async def greet(name: str) -> str:
    return f"Hello, {name}!"


@function
def count(gate: str) -> Iterator[dict[str, int]]:
    for step in (1, 2, 3):
        yield {"step": step}
        wait_for_file(f"{gate}.{step}")


@function
async def letters(text: str) -> AsyncIterator[str]:
    for letter in text:
        yield letter


@function(max_retries=1)
def refuse(flavour: str) -> int:
    print(f"attempt {current().attempt}")
    raise ValueError(f"no such flavour:\n\n{flavour}")


@function(timeout=2)
def too_slow() -> None:
    time.sleep(600)


@function
def lost() -> None:
    os._exit(7)


@function(max_concurrency=20)
def hold(gate: str) -> str:
    progress(1, 2, message="waiting", place=[gate])
    print("waiting", flush=True)
    wait_for_file(gate)
    return current().invocation_id


@function
def sum_of_squares(numbers: list[int]) -> int:
    return sum(square.map(numbers, ordered=False))


@function
async def sum_of_squares_async(numbers: list[int]) -> int:
    total = 0
    async for result in square.map_async(numbers):
        total += result
    return total + await square.call_async(100)


@function
def calls_a_child(gate: str) -> str:
    child = hold.start(gate)
    try:
        return child.result()
    except InvocationCancelledError:
        return "the child was cancelled"

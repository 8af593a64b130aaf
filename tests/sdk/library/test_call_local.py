"""CL-9: a function called without a server."""

from collections.abc import AsyncIterator, Generator, Iterator

import pytest
from control_plane._define.local_call import call_local


def plain(a: int, *, b: int) -> int:
    return a - b


async def asynchronous(a: int) -> int:
    return a + 1


def counting(up_to: int) -> Generator[int, None, str]:
    yield from range(up_to)
    return "ignored"


async def counting_asynchronously(up_to: int) -> AsyncIterator[int]:
    for number in range(up_to):
        yield number


def failing() -> Iterator[int]:
    yield 1
    raise ValueError("no luck")


def test_cl_9_a_plain_function_gives_its_value() -> None:
    assert call_local(plain, 5, b=2) == 3
    assert call_local(asynchronous, 1) == 2


def test_cl_9_a_generator_gives_its_last_value() -> None:
    assert call_local(counting, 3) == 2
    assert call_local(counting_asynchronously, 3) == 2


def test_cl_9_a_generator_without_values_gives_none() -> None:
    assert call_local(counting, 0) is None
    assert call_local(counting_asynchronously, 0) is None


def test_errors_arrive_as_they_are() -> None:
    with pytest.raises(ValueError, match="no luck"):
        call_local(failing)

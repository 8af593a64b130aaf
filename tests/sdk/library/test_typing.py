"""What mypy makes of user code: each function keeps its own types. Checked by `make check`.

The test below lets mypy say what it refuses, so that this is seen, too.
"""

import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_type

from control_plane import ControlPlaneError, Function, Invocation, function

from tests.support.repository import ROOT


@function
def plain(a: int, b: str = "") -> list[str]:
    return [b] * a


@function
def optional(a: int | None = None, *, b: str = "") -> int:
    return len(b) + (a or 0)


@function
def two(a: int, b: str) -> int:
    return a + len(b)


@function(cpu=2, memory="1 GiB", timeout=timedelta(minutes=5), max_retries=3)
async def awaited(a: int) -> str:
    return str(a)


@function
def generator(a: int) -> Iterator[float]:
    yield a


@function(timeout=60)
def full_generator(a: int) -> Generator[float, None, str]:
    yield a
    return ""


@function
async def async_generator() -> AsyncIterator[bytes]:
    yield b""


@function(max_concurrency=1)
async def full_async_generator() -> AsyncGenerator[bytes, None]:
    yield b""


if TYPE_CHECKING:

    async def check() -> None:
        assert_type(plain(1, b="x"), list[str])
        assert_type(plain.start(1), Invocation[list[str]])
        assert_type(plain.call(a=1), list[str])
        assert_type(plain.start(1).result(timeout=3), list[str])
        assert_type(await plain.call_async(1, "x"), list[str])
        assert_type(await (await plain.start_async(1)).result_async(), list[str])
        assert_type(plain.map([1, 2]), Iterator[list[str]])
        assert_type(plain.map([1], return_exceptions=True), Iterator[list[str] | ControlPlaneError])
        assert_type(plain.map_async(iter([1])), AsyncIterator[list[str]])
        assert_type(optional.map([None, 1]), Iterator[int])
        assert_type(generator.map(range(3)), Iterator[float])
        assert_type(plain.starmap_async([(1, "x")]), AsyncIterator[list[str]])
        assert_type(Function.from_name("p", "f").map([1, "x"]), Iterator[Any])
        assert_type(plain.options(project="p").call(1), list[str])
        assert_type(plain.invocation("inv-1").result(), list[str])

        coroutine: Coroutine[Any, Any, str] = awaited(1)
        assert_type(await coroutine, str)
        assert_type(await awaited(1), str)
        assert_type(awaited.call(1), str)
        assert_type(await awaited.call_async(1), str)

        assert_type(generator(1), Iterator[float])
        assert_type(generator.call(1), float)
        assert_type(generator.start(1).stream(), Iterator[float])
        assert_type(generator.start(1).stream_async(), AsyncIterator[float])
        assert_type(full_generator(1), Generator[float, None, str])
        assert_type(full_generator.call(1), float)
        assert_type(async_generator(), AsyncIterator[bytes])
        assert_type(async_generator.call(), bytes)
        assert_type(full_async_generator(), AsyncGenerator[bytes, None])
        assert_type(full_async_generator.call(), bytes)

        assert_type(Function.from_name("p", "f"), Function[..., Any])


def test_wrong_calls_are_refused_by_mypy(tmp_path: Path) -> None:
    code = """
from tests.sdk.library.test_typing import awaited, generator, optional, plain, two

plain("1")
plain.call("1")
plain.start(1, c=2)
plain.options(project="p").call()
number: int = plain.call(1)
text: int = awaited.start(1).result()
step: str = generator.call(1)
plain.map(["1"])
plain.map_async(["1"])
plain.options(project="p").map(str(number) for number in range(3))
optional.map(["1"], return_exceptions=True)
two.map([1])
"""
    sample = tmp_path / "sample.py"
    sample.write_text(code)
    answer = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), str(sample)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    refused = {
        int(line.split(":")[1])
        for line in answer.stdout.splitlines()
        if line.startswith(str(sample)) and ": error:" in line
    }
    assert refused == set(range(4, 16)), answer.stdout

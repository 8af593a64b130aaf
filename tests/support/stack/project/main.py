"""The project that the end-to-end tests deploy. Functions wait for files, never for the time."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from control_plane import InvocationCancelled, InvocationTimedOut


def wait_for_file(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.02)


def greet(name: str = "world") -> str:
    return f"Hello, {name}!"


def echo(*arguments: Any, **keywords: Any) -> dict[str, Any]:
    return {"arguments": arguments, "keywords": keywords}


def fail(text: str) -> NoReturn:
    print("about to fail")
    raise ValueError(text)


def progress(gate: str) -> Iterator[dict[str, int]]:
    yield {"step": 1}
    wait_for_file(gate)
    yield {"step": 2}


async def add(left: int, right: int) -> int:
    await asyncio.sleep(0)
    return left + right


def flaky(counter: str) -> str:
    path = Path(counter)
    attempt = 1 + (len(path.read_text()) if path.exists() else 0)
    path.write_text("x" * attempt)
    if attempt < 3:
        raise ConnectionError(f"attempt {attempt}")
    return f"attempt {attempt}"


def until_told_to_stop(cleaned_up: str) -> None:
    try:
        print("running", flush=True)
        time.sleep(600)
    except (InvocationTimedOut, InvocationCancelled) as told:
        Path(cleaned_up).write_text(type(told).__name__)
        raise


def talk(gate: str) -> None:
    print("before the gate", flush=True)
    wait_for_file(gate)
    print("after the gate")


def not_json() -> object:
    return {"when": {1, 2}}


def mark(folder: str, gate: str) -> str:
    """Leave one line for each start of an execution, in a file of the invocation's own."""
    execution_id = os.environ["CONTROL_PLANE_EXECUTION_ID"]
    with (Path(folder) / os.environ["CONTROL_PLANE_INVOCATION_ID"]).open("a") as marks:
        marks.write(f"{execution_id}\n")
    print("started", flush=True)
    wait_for_file(gate)
    print("ended")
    return execution_id


def first_time_wait(counter: str) -> str:
    """Wait for ever at the first execution, return at the second."""
    path = Path(counter)
    if path.exists():
        return "second execution"
    path.touch()
    time.sleep(600)
    raise AssertionError


def exit_at_once(code: int) -> NoReturn:
    os._exit(code)


def eat(gigabytes: float) -> int:
    return len(bytearray(int(gigabytes * 2**30)))


def stubborn(ready: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(ready).touch()
    time.sleep(600)


def environment(gate: str) -> Iterator[dict[str, str]]:
    yield dict(os.environ)
    wait_for_file(gate)

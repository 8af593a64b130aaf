"""Functions for a first look at the control plane.

The input of an invocation is JSON: an object holds the keyword arguments, an array the positional
ones, null means none, and any other value is the one argument. What a function returns must be
JSON, too. Examples: `{"name": "Ada"}`, `["Ada"]` and `"Ada"` all call `greet("Ada")`.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from control_plane import InvocationTimedOut, function


@function(timeout=60)
def greet(name: str = "world") -> str:
    """Give back a greeting. Input: `"Ada"`."""
    return f"Hello, {name}!"


@function(timeout=60, max_retries=3)
def flaky(state_file: str) -> str:
    """Fail twice and succeed at the third execution. Input: `{"state_file": "/tmp/flaky"}`.

    Every execution has a worker of its own, so what one must tell the next goes into a file here,
    and into a database in earnest.
    """
    counter = Path(state_file)
    attempt = 1 + (int(counter.read_text()) if counter.exists() else 0)
    counter.write_text(str(attempt))
    if attempt < 3:
        raise ConnectionError(f"execution {attempt} failed, as it was meant to")
    return f"worked at execution {attempt}"


@function(timeout=60)
def count_up(to: int = 5, pause: float = 0.2) -> Iterator[dict[str, int]]:
    """Report progress: each yielded value is the invocation's output so far. Input: `{"to": 3}`."""
    for step in range(1, to + 1):
        time.sleep(pause)
        yield {"step": step, "of": to}


@function(timeout=600, max_concurrency=1)
def sleepy(seconds: float = 3600) -> str:
    """Sleep, and clean up when the time limit of the invocation passes. Input: `60`."""
    try:
        time.sleep(seconds)
    except InvocationTimedOut:
        print("out of time: cleaning up before this worker ends")
        raise
    return f"slept for {seconds} seconds"


@function(timeout=60)
def word_count(text: str, top: int = 10) -> dict[str, object]:
    """Count the words of a text. Input: `{"text": "to be or not to be", "top": 2}`."""
    words = re.findall(r"[\w'-]+", text.lower())
    return {"words": len(words), "most_common": Counter(words).most_common(top)}

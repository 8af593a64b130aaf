"""The longest Collatz sequence below a number: takes long, says how far it is, can be stopped.

python main.py 3000000
"""

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import TypedDict

from control_plane import Interrupted, InvocationCancelledError, function, progress


class Longest(TypedDict):
    number: int
    steps: int


@function(memory="256 MiB", timeout=timedelta(hours=1), max_retries=3)
def longest(below: int, *, checkpoint: str | None = None) -> Longest:
    """Find the number below `below` that needs the most steps to get to 1.

    With the path of a file as `checkpoint`, a call that is stopped leaves there what it has found,
    and the next one goes on from it.
    """
    file = None if checkpoint is None else Path(checkpoint)
    begin, best = 1, Longest(number=1, steps=0)
    if file is not None and file.exists():
        begin, best = json.loads(file.read_text())
    number = begin
    try:
        for number in range(begin, below):
            if number % 1000 == 0:
                progress(number, below, message=f"longest so far: {best['number']}")
            steps = steps_of(number)
            if steps > best["steps"]:
                best = Longest(number=number, steps=steps)
    except Interrupted:
        if file is not None:
            file.write_text(json.dumps([number, best]))
            print(f"stopped at {number}; {file} keeps what was found")
        raise
    return best


def steps_of(number: int) -> int:
    steps = 0
    while number != 1:
        number = 3 * number + 1 if number % 2 else number // 2
        steps += 1
    return steps


if __name__ == "__main__":
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else 3_000_000
    call = longest.options(project="long-computation").start(limit)
    try:
        print(f"{call.id} has begun; Ctrl-C cancels it")
        for state in call.watch():
            report = state.progress or {}
            print(f"{state.phase:<12} {report.get('done', 0):>10,} {report.get('message', '')}")
        print(call.result())
    except KeyboardInterrupt:
        call.cancel()
        try:
            print(call.result())
        except InvocationCancelledError as error:
            print(error)

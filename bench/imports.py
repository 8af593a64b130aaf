"""How long the imports of the library take, beside a bare start of Python.

Each import is in a process of its own, which measures it; the baseline is a whole `python -c pass`.
The processor's time hardly depends on what else the machine does; the other one does.
"""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

from bench.figures import Sample, Section, line, print_table

SDK = Path(__file__).resolve().parents[1] / "sdk"

_RUNNER = "import control_plane.runner.sigterm, control_plane.runner.run"
_IMPORTS = {
    # As a worker starts: without site-packages, unless its project has dependencies.
    "the runner": (("-I", "-S"), _RUNNER),
    "the runner, and @function": (
        ("-I", "-S"),
        f"{_RUNNER}\nfrom control_plane import current, function, progress",
    ),
    "control_plane": ((), "import control_plane"),
    "control_plane, and a client": (
        (),
        "from control_plane import Client, Function\nClient('http://localhost', 'key').close()",
    ),
}
_MEASURE = """
import sys
sys.path.append({sdk!r})
from time import perf_counter, process_time
before = set(sys.modules)
began, cpu_began = perf_counter(), process_time()
{code}
seconds, cpu_seconds = perf_counter() - began, process_time() - cpu_began
names = {{name.partition(".")[0] for name in set(sys.modules) - before}}
foreign = sorted(names - set(sys.stdlib_module_names) - {{"control_plane"}})
import json
print(json.dumps([seconds, cpu_seconds, foreign]))
"""


def python_start() -> float:
    """Give the seconds of one `python -c pass`."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - began


async def imports(_: Path, *, count: int) -> Section:
    """Measure each import so many times, by turns with the baseline."""
    return await asyncio.to_thread(_measured, count)


def _measured(count: int) -> Section:
    starts: list[float] = []
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in _IMPORTS}
    foreign: dict[str, list[str]] = {}
    for number in range(count + 1):
        start = python_start() * 1000
        for name, (flags, code) in _IMPORTS.items():
            seconds, cpu_seconds, foreign[name] = _import(flags, code)
            # The first round writes bytecode.
            if number:
                taken[name].append((seconds * 1000, cpu_seconds * 1000))
        if number:
            starts.append(start)
    baseline = Sample.of(starts)
    lines = [line("python -c pass", baseline, "ms")]
    for name, each in taken.items():
        clock, cpu = (Sample.of(values) for values in zip(*each, strict=True))
        lines.append(line(f"import of {name}", clock, "ms", to=("python", baseline.p50)))
        lines.append(line("  processor time", cpu, "ms"))
        modules = Sample.of([float(len(foreign[name]))])
        lines.append(line("  third-party modules", modules, ""))
    return Section(title="9 what the imports of the library take", lines=lines)


def _import(flags: tuple[str, ...], code: str) -> tuple[float, float, list[str]]:
    program = _MEASURE.format(sdk=str(SDK), code=code)
    answer = subprocess.run(
        [sys.executable, *flags, "-c", program], check=True, capture_output=True, text=True
    )
    seconds, cpu_seconds, foreign = json.loads(answer.stdout)
    return seconds, cpu_seconds, foreign


if __name__ == "__main__":
    print_table([_measured(20)])

"""How long the imports of the library take, beside a bare start of Python.

Each import is in a process of its own, which measures it; the baseline is a whole `python -c pass`.
The processor's time hardly depends on what else the machine does; the other one does.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

Json = dict[str, Any]

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


def imports(*, count: int) -> Json:
    """Measure each import so many times, by turns with the baseline; gives medians, in seconds."""
    starts: list[float] = []
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in _IMPORTS}
    foreign: dict[str, list[str]] = {}
    for number in range(count + 1):
        start = python_start()
        for name, (flags, code) in _IMPORTS.items():
            seconds, cpu_seconds, foreign[name] = _import(flags, code)
            # The first round writes bytecode.
            if number:
                taken[name].append((seconds, cpu_seconds))
        if number:
            starts.append(start)
    return {
        "python_start": statistics.median(starts),
        "imports": {
            name: {
                "seconds": statistics.median(seconds for seconds, _ in each),
                "cpu_seconds": statistics.median(cpu_seconds for _, cpu_seconds in each),
                "third_party": foreign[name],
            }
            for name, each in taken.items()
        },
    }


def print_imports(figures: Json) -> None:
    """Print the figures of `imports`."""
    unit = figures["python_start"]
    print(f"{'an import of the library':<36} {'CPU ms':>7} {'p50 ms':>8} {'x python':>9}")
    print(f"  {'python -c pass':<34} {'':>7} {unit * 1000:>8.1f} {1:>9.2f}")
    for name, each in figures["imports"].items():
        cpu, seconds = each["cpu_seconds"] * 1000, each["seconds"] * 1000
        modules = ", ".join(each["third_party"]) or "none"
        print(f"  {name:<34} {cpu:>7.1f} {seconds:>8.1f} {seconds / unit / 1000:>9.2f}")
        print(f"    third-party modules: {modules}")


def _import(flags: tuple[str, ...], code: str) -> tuple[float, float, list[str]]:
    program = _MEASURE.format(sdk=str(SDK), code=code)
    answer = subprocess.run(
        [sys.executable, *flags, "-c", program], check=True, capture_output=True, text=True
    )
    seconds, cpu_seconds, foreign = json.loads(answer.stdout)
    return seconds, cpu_seconds, foreign


if __name__ == "__main__":
    print_imports(imports(count=20))

"""What one machine gets done: invocations over HTTP, beside bare workflows on the same server.

Workers are instant, so nothing but the control plane is measured. Rounds of both take turns, so
that whatever else the machine does hits both alike.
"""

import time
from pathlib import Path
from typing import Final

from bench.calls import Function, client, deploy
from bench.engine import Engine, engine
from bench.figures import Line, Sample, Section, line
from bench.programs import cpu_seconds
from bench.stacks import RunningStack, stack

_AT_ONCE: Final = 20
_ENGINE: Final = "engine"


async def throughput(folder: Path, *, rounds: int, count: int) -> Section:
    """Measure `rounds` rounds of `count` invocations, and as many of bare workflows."""
    async with (
        stack(folder / "throughput", provisioner="instant") as running,
        client(running.api_url, running.api_key) as http,
        engine(running.temporal) as bare,
    ):
        # `count` is at most its limit: to wait for a slot is another item.
        function = await deploy(http, "noop")
        measured = _Measured(running, function, bare)
        # The first ones pay for connections, statements and workflows that are loaded.
        await measured.one_round(max(10, count // 4), keep=False)
        for _ in range(rounds):
            await measured.one_round(count)
        await measured.alone(count)
    return measured.section()


class _Measured:
    """What the rounds have given so far."""

    def __init__(self, running: RunningStack, function: Function, bare: Engine) -> None:
        self._running = running
        self._function = function
        self._bare = bare
        self._rates: dict[str, list[float]] = {"ours": [], "bare": []}
        self._starts: dict[str, list[float]] = {"ours": [], "bare": []}
        self._accepts: dict[str, list[float]] = {"ours": [], "bare": []}
        self._latencies: dict[str, list[float]] = {"ours": [], "bare": []}
        self._cpu: dict[str, list[float]] = {}

    async def one_round(self, count: int, *, keep: bool = True) -> None:
        """Run `count` of ours to their end, and then of the bare ones."""
        before, began = self._running.cpu(), time.perf_counter()
        await self._function.call_many(count, at_once=_AT_ONCE)
        started = time.perf_counter() - began
        await self._function.until_none_runs(pause=0.05)
        if keep:
            self._rates["ours"].append(count / (time.perf_counter() - began))
            self._starts["ours"].append(count / started)
            for part, seconds in self._running.cpu().items():
                spent = self._cpu.setdefault(part, [])
                spent.append((seconds - before[part]) / count * 1000)
        before, began = self._bare_cpu(), time.perf_counter()
        await self._bare.run_many(count, at_once=_AT_ONCE)
        if keep:
            self._rates["bare"].append(count / (time.perf_counter() - began))
            for part, seconds in self._bare_cpu().items():
                spent = self._cpu.setdefault(f"bare {part}", [])
                spent.append((seconds - before[part]) / count * 1000)

    def _bare_cpu(self) -> dict[str, float]:
        return {
            "worker": cpu_seconds(self._bare.pid),
            "temporal": self._running.cpu()["temporal"],
        }

    async def alone(self, count: int) -> None:
        """Take turns, one at a time, with nothing else under way: latencies without a queue."""
        for _ in range(count):
            began = time.perf_counter()
            path = await self._function.call()
            self._accepts["ours"].append((time.perf_counter() - began) * 1000)
            await self._function.until_terminated(path)
            self._latencies["ours"].append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            workflow_id, seconds = await self._bare.start()
            self._accepts["bare"].append(seconds * 1000)
            await self._bare.finished(workflow_id)
            self._latencies["bare"].append((time.perf_counter() - began) * 1000)

    def section(self) -> Section:
        """Give the lines of the table."""
        rates = {name: Sample.of(values) for name, values in self._rates.items()}
        accepts = {name: Sample.of(values) for name, values in self._accepts.items()}
        latencies = {name: Sample.of(values) for name, values in self._latencies.items()}
        lines = [
            line("bare workflows completed (engine)", rates["bare"], "/s"),
            line(
                "invocations completed over HTTP",
                rates["ours"],
                "/s",
                to=(_ENGINE, rates["bare"].p50),
                at_least=0.6,
            ),
            self._ratio_of_rounds(),
            line("invocations accepted over HTTP", Sample.of(self._starts["ours"]), "/s"),
            line("start_workflow alone (engine)", accepts["bare"], "ms"),
            line(
                "POST answered, alone",
                accepts["ours"],
                "ms",
                to=(_ENGINE, accepts["bare"].p50),
                at_most=2,
            ),
            line("POST answered, alone, p99", accepts["ours"], "ms", at=0.99),
            line("bare workflow from start to end (engine)", latencies["bare"], "ms"),
            line(
                "POST to TERMINATED, alone",
                latencies["ours"],
                "ms",
                to=(_ENGINE, latencies["bare"].p50),
            ),
        ]
        for part in ("bare worker", "bare temporal", "ours", "postgres", "temporal"):
            name = "API and Temporal worker" if part == "ours" else part
            lines.append(line(f"processor time: {name}", Sample.of(self._cpu[part]), "ms"))
        return Section(title="1 no-op invocations, instant workers, beside the engine", lines=lines)

    def _ratio_of_rounds(self) -> Line:
        pairs = zip(self._rates["ours"], self._rates["bare"], strict=True)
        ratios = Sample.of([ours / bare for ours, bare in pairs])
        return line("  the same, round by round", ratios, "ratio")

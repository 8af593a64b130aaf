"""Prints what one invocation costs, as ratios to baselines that run beside it. See `make bench`."""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from bench.engine import bare_completions
from bench.imports import imports, print_imports, python_start
from bench.instant import InstantProvisioner
from bench.limit import slot_handover
from bench.listing import listing, print_listing
from core.logging import configure_logging
from core.settings import TemporalSettings
from core.temporal import connect
from standalone.stack import Stack, StackOptions, running_stack

Json = dict[str, Any]

_NOOP = '''"""Says when it ran."""

import time


def noop():
    """Give the time at which the user's code runs."""
    return time.time()
'''


class _Function:
    """One deployed function, over HTTP."""

    def __init__(self, http: aiohttp.ClientSession, path: str) -> None:
        self.http = http
        self.path = path

    async def start(self) -> str:
        async with self.http.post(self.path, json={"input": ""}) as answer:
            return f"{self.path}/{(await answer.json())['invocation_id']}"

    async def until(self, path: str, *, over: bool, pause: float) -> Json:
        while True:
            async with self.http.get(path) as answer:
                seen: Json = await answer.json()
            done = any(execution["outcome"] for execution in seen["executions"])
            if seen["invocation_status"] == "TERMINATED" or (done and not over):
                return seen
            await asyncio.sleep(pause)

    async def until_none_runs(self, *, pause: float) -> None:
        query = {"status": "RUNNING", "max_results": "1"}
        while True:
            async with self.http.get(self.path, params=query) as answer:
                if not (await answer.json())["invocations"]:
                    return
            await asyncio.sleep(pause)


async def _deploy(http: aiohttp.ClientSession, image: str) -> _Function:
    async with http.put("/projects/bench"):
        pass
    async with http.post(
        "/projects/bench/versions",
        json={
            "default_docker_image": image,
            "functions": [
                {
                    "function_name": "noop",
                    "resource_spec": {
                        "virtual_cpus": 1,
                        "memory_gbs": 1,
                        "max_concurrency": 100,
                    },
                    "execution_spec": {"max_retries": 0, "timeout_seconds": 600},
                }
            ],
        },
    ) as answer:
        version = (await answer.json())["version_id"]
    return _Function(http, f"/projects/bench/versions/{version}/functions/noop/invocations")


def _client(stack: Stack) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        base_url=stack.api_url,
        headers={"Authorization": f"Bearer {stack.api_key.get_secret_value()}"},
        raise_for_status=True,
    )


async def _cold_start(folder: Path, *, count: int) -> Json:
    project = folder / "noop"
    project.mkdir()
    (project / "main.py").write_text(_NOOP)
    to_code: list[float] = []
    to_outcome: list[float] = []
    to_over: list[float] = []
    accept: list[float] = []
    baseline: list[float] = []
    options = StackOptions(data_folder=folder / "process", api_port=0)
    async with running_stack(options) as stack, _client(stack) as http:
        function = await _deploy(http, project.as_uri())
        for number in range(count + 3):
            baseline.append(await asyncio.to_thread(python_start))
            began, clock = time.perf_counter(), time.time()
            path = await function.start()
            accepted = time.perf_counter() - began
            seen = await function.until(path, over=False, pause=0.005)
            outcome = time.perf_counter() - began
            await function.until(path, over=True, pause=0.005)
            over = time.perf_counter() - began
            if number >= 3:
                accept.append(accepted)
                to_code.append(float(seen["executions"][0]["output"]) - clock)
                to_outcome.append(outcome)
                to_over.append(over)
    unit = statistics.median(baseline)
    return {
        "python_start": unit,
        "accepted": statistics.median(accept),
        "user_code_runs": statistics.median(to_code),
        "succeeded": statistics.median(to_outcome),
        "terminated": statistics.median(to_over),
    }


async def _throughput(folder: Path, *, count: int) -> Json:
    options = StackOptions(data_folder=folder / "instant", api_port=0)
    async with (
        running_stack(options, provisioner=InstantProvisioner()) as stack,
        _client(stack) as http,
    ):
        function = await _deploy(http, "image")
        await function.until(await function.start(), over=True, pause=0.02)
        began = time.perf_counter()
        gate = asyncio.Semaphore(20)

        async def one() -> None:
            async with gate:
                await function.start()

        await asyncio.gather(*(one() for _ in range(count)))
        await function.until_none_runs(pause=0.25)
        ours = time.perf_counter() - began
        client = await connect(TemporalSettings(temporal_address=stack.temporal_address))
        bare = await bare_completions(client, count=count, at_once=40)
    return {"ours_per_second": count / ours, "engine_per_second": count / bare}


def _print(cold: Json, throughput: Json, handover: Json) -> None:
    unit = cold["python_start"]
    print(f"{'one no-op invocation, process provisioner':<44} {'p50 s':>8} {'x python':>9}")
    for name in ("python_start", "accepted", "user_code_runs", "succeeded", "terminated"):
        print(f"  {name.replace('_', ' '):<42} {cold[name]:>8.3f} {cold[name] / unit:>9.1f}")
    ours, engine = throughput["ours_per_second"], throughput["engine_per_second"]
    print(f"{'no-op invocations, instant provisioner':<44} {'per s':>8} {'x engine':>9}")
    print(f"  {'bare workflow of the same steps (engine)':<42} {engine:>8.1f} {1:>9.2f}")
    print(f"  {'invocations end to end over HTTP':<42} {ours:>8.1f} {ours / engine:>9.2f}")
    unit = handover["signal_round_trip"]
    print(f"{'a freed slot stays empty, others waiting':<44} {'s':>8} {'x trip':>9}")
    for name, seconds in handover.items():
        print(f"  {name.replace('_', ' '):<42} {seconds:>8.3f} {seconds / unit:>9.2f}")


async def _main(count: int, rows: int, output: Path | None) -> None:
    imported = await asyncio.to_thread(imports, count=count)
    print_imports(imported)
    with tempfile.TemporaryDirectory(prefix="control-plane-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        cold = await _cold_start(folder, count=count)
        throughput = await _throughput(folder, count=count * 6)
        handover = await slot_handover(folder, count=count)
        lists = await listing(folder / "listing", sizes=(10_000, rows))
    _print(cold, throughput, handover)
    print_listing(lists)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        figures = {
            "imports": imported,
            "cold_start": cold,
            "throughput": throughput,
            "slot_handover": handover,
            "listing": lists,
        }
        output.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--count", type=int, default=40, help="cold starts to measure")
    parser.add_argument("--rows", type=int, default=1_000_000, help="invocations to list among")
    parser.add_argument("--output", type=Path, help="write the figures as JSON too")
    arguments = parser.parse_args()
    configure_logging(level="ERROR")
    asyncio.run(_main(arguments.count, arguments.rows, arguments.output))

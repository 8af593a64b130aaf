"""How long a worker takes to its first line, started cold and forked from a warm parent.

`make bench-warm`: the whole stack in this process. The time runs from the moment in which the
workflow reaches provisioning (the call of `provision`) to the user's first statement, and for all
from the POST. Each call stands beside a fork and exec of `python -c pass`. One function imports
next to nothing, the other a good part of the standard library.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from core.logging import configure_logging
from provisioners.base import WorkerRecord, WorkerRequest
from provisioners.process import ProcessProvisioner, ProcessProvisionerConfig
from standalone.stack import Stack, StackOptions, running_stack

Json = dict[str, Any]

_IMPORTS = {
    "nothing": "",
    "much": "import concurrent.futures, asyncio\n"
    "import decimal, email.message, http.server, ssl, sqlite3\n"
    "import logging.config, unittest.mock, urllib.request, xml.dom.minidom, xmlrpc.client\n",
}
_CODE = """
import time
def now():
    return time.time()
"""


class _Provisioner(ProcessProvisioner):
    """Remembers when it was called, and how workers were started."""

    def __init__(self, config: ProcessProvisionerConfig) -> None:
        super().__init__(config)
        self.called: dict[str, float] = {}

    async def provision(self, request: WorkerRequest) -> WorkerRecord:
        self.called.setdefault(request.execution_id, time.time())
        return await super().provision(request)


def _python_start() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - began


async def _deploy(http: aiohttp.ClientSession, image: str) -> str:
    function = {
        "function_name": "now",
        "docker_image": image,
        "resource_spec": {"virtual_cpus": 1, "memory_gbs": 1, "max_concurrency": 10},
        "execution_spec": {"max_retries": 0, "timeout_seconds": 600},
    }
    async with http.post(
        "/projects/bench/versions", json={"default_docker_image": image, "functions": [function]}
    ) as answer:
        version = (await answer.json())["version_id"]
    return f"/projects/bench/versions/{version}/functions/now/invocations"


async def _call(http: aiohttp.ClientSession, path: str) -> Json:
    async with http.post(path, json={"input": ""}) as answer:
        invocation = (await answer.json())["invocation_id"]
    seen: Json = {"invocation_status": ""}
    while seen["invocation_status"] != "TERMINATED":
        async with http.get(f"{path}/{invocation}", params={"wait": "30"}) as answer:
            seen = await answer.json()
    execution: Json = seen["executions"][0]
    return execution


async def _measure(stack: Stack, provisioner: _Provisioner, folder: Path, *, count: int) -> Json:
    figures: Json = {}
    headers = {"Authorization": f"Bearer {stack.api_key.get_secret_value()}"}
    async with aiohttp.ClientSession(
        base_url=stack.api_url, headers=headers, raise_for_status=True
    ) as http:
        async with http.put("/projects/bench"):
            pass
        for imports, statement in _IMPORTS.items():
            paths = {}
            for kind, warm in (("cold", 0), ("warm", 1)):
                project = folder / f"{kind}-{imports}"
                project.mkdir()
                (project / "main.py").write_text(statement + _CODE)
                (project / "control-plane.toml").write_text(f"warm = {warm}\n")
                paths[kind] = await _deploy(http, project.as_uri())
                for _ in range(3):
                    await _call(http, paths[kind])
                    await asyncio.sleep(1)  # for the parent, which starts beside the first one
            series: dict[str, list[float]] = {}
            for _ in range(count):
                start = await asyncio.to_thread(_python_start)
                series.setdefault("python", []).append(start)
                for kind, path in paths.items():
                    posted = time.time()
                    execution = await _call(http, path)
                    ran = float(execution["output"])
                    called = provisioner.called[execution["execution_id"]]
                    series.setdefault(f"{kind}_from_provisioning", []).append(ran - called)
                    series.setdefault(f"{kind}_from_post", []).append(ran - posted)
            figures[imports] = {name: statistics.median(values) for name, values in series.items()}
            figures[imports] |= {
                f"{name}_p90": statistics.quantiles(values, n=10)[-1]
                for name, values in series.items()
            }
    parents = provisioner.warm_parents().count()
    if parents != len(_IMPORTS):
        raise SystemExit(f"{parents} warm parents at the end: not all of this was warm")
    return figures


async def _main(count: int, output: Path | None) -> None:
    with tempfile.TemporaryDirectory(prefix="control-plane-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        provisioner = _Provisioner(ProcessProvisionerConfig(state_folder=folder / "workers"))
        options = StackOptions(data_folder=folder / "data", api_port=0)
        async with running_stack(options, provisioner=provisioner) as stack:
            figures = await _measure(stack, provisioner, folder, count=count)
    print(f"{'to the first line of a function':<44} {'p50 ms':>8} {'p90 ms':>8} {'x python':>9}")
    for imports, row in figures.items():
        print(f"  that imports {imports}")
        for series in (
            *("python", "cold_from_provisioning", "warm_from_provisioning"),
            *("cold_from_post", "warm_from_post"),
        ):
            label = "python -c pass" if series == "python" else series.replace("_", " ")
            print(
                f"    {label:<40} {row[series] * 1000:>8.1f} {row[f'{series}_p90'] * 1000:>8.1f} "
                f"{row[series] / row['python']:>9.2f}"
            )
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.warm", description=__doc__)
    parser.add_argument("--count", type=int, default=40, help="calls of each kind")
    parser.add_argument("--output", type=Path, help="write the figures as JSON too")
    arguments = parser.parse_args()
    configure_logging(level="ERROR")
    asyncio.run(_main(arguments.count, arguments.output))

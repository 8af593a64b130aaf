"""Deletes a project of many invocations, and measures what other users of the API notice of it.

`make bench-deletion`: nine in ten invocations have ended, with an execution and a log each; the
others wait in the queue, and Temporal does not know them.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from sqlalchemy import text

from bench.instant import InstantProvisioner
from registry.database.engine import Registry
from runtime.logging import configure_logging
from standalone.options import StackOptions
from standalone.servers.postgres import EmbeddedPostgres
from standalone.stack import Stack, running_stack

Json = dict[str, Any]

_ENDED = text(
    """
    INSERT INTO invocations (id, function_id, input, provisioner, status, phase, queue_reason,
                             created_at, updated_at, terminated_at)
    SELECT 'inv-' || lpad(to_hex(number), 32, '0'), :function_id, repeat('x', 200), 'instant',
           'TERMINATED', 'SUCCEEDED', NULL, now(), now(), now()
    FROM generate_series(1, :count) AS number
    """
)
_EXECUTIONS = text(
    """
    INSERT INTO executions (id, invocation_id, function_id, attempt, worker_status, provisioner,
                            started_at, finished_at, outcome, output, cause, terminated_at)
    SELECT 'exe-' || substr(id, 5), id, function_id, 1, 'TERMINATED', 'instant',
           now(), now(), 'SUCCEEDED', repeat('y', 200), 'succeeded', now()
    FROM invocations WHERE function_id = :function_id
    """
)
_LOGS = text(
    """
    INSERT INTO log_chunks (execution_id, first_line, next_line, lines, next_offset)
    SELECT id, 0, 1, ARRAY['a line'], '1' FROM executions WHERE function_id = :function_id
    """
)
_QUEUED = text(
    """
    INSERT INTO invocations (id, function_id, input, provisioner, queue_reason,
                             created_at, updated_at)
    SELECT 'inv-f' || lpad(to_hex(number), 31, '0'), :function_id, repeat('x', 200), 'instant',
           'function_limit', now(), now()
    FROM generate_series(1, :count) AS number
    """
)


async def _fill(stack: Stack, *, count: int) -> None:
    (postgres,) = (part for part in stack.embedded if isinstance(part, EmbeddedPostgres))
    registry = Registry(postgres.registry_settings("control_plane"))
    async with registry.transaction() as session:
        function_id = await session.scalar(text("SELECT id FROM functions WHERE name = 'gone'"))
        for statement, rows in (
            (_ENDED, count * 9 // 10),
            (_EXECUTIONS, 0),
            (_LOGS, 0),
            (_QUEUED, count - count * 9 // 10),
        ):
            values: Json = {"function_id": function_id}
            await session.execute(statement, {**values, "count": rows} if rows else values)
    async with registry.autocommit() as session:
        await session.execute(text("ANALYZE"))
    await registry.close()


async def _deploy(http: aiohttp.ClientSession, name: str) -> str:
    """Make a project with one function, both of this name; returns the path of its calls."""
    spec = {
        "function_name": name,
        "resource_spec": {"virtual_cpus": 1, "memory_gbs": 1, "max_concurrency": 1},
        "execution_spec": {"max_retries": 0, "timeout_seconds": 600},
    }
    async with http.put(f"/projects/{name}"):
        pass
    version = {"default_docker_image": "image", "functions": [spec]}
    async with http.post(f"/projects/{name}/versions", json=version) as answer:
        version_id = (await answer.json())["version_id"]
    return f"/projects/{name}/versions/{version_id}/functions/{name}/invocations"


async def _latencies(
    http: aiohttp.ClientSession, calls: str, during: asyncio.Task[None]
) -> list[float]:
    """Read lists and a project, one request after the other, until a task is done."""
    seconds = []
    while not during.done():
        for path in (calls, "/projects/other"):
            began = time.perf_counter()
            async with http.get(path) as answer:
                await answer.read()
            seconds.append(time.perf_counter() - began)
        await asyncio.sleep(0.01)
    await during
    return sorted(seconds)


async def _until_gone(http: aiohttp.ClientSession) -> None:
    while True:
        async with http.get("/projects") as answer:
            names = [project["project_name"] for project in (await answer.json())["projects"]]
        if "gone" not in names:
            return
        await asyncio.sleep(0.1)


async def _measure(folder: Path, *, count: int) -> Json:
    options = StackOptions(data_folder=folder / "data", api_port=0)
    async with (
        running_stack(options, provisioner=InstantProvisioner()) as stack,
        aiohttp.ClientSession(
            base_url=stack.api_url,
            headers={"Authorization": f"Bearer {stack.api_key.get_secret_value()}"},
            raise_for_status=True,
        ) as http,
    ):
        await _deploy(http, "gone")
        calls = await _deploy(http, "other")
        await _fill(stack, count=count)
        idle = await _latencies(http, calls, asyncio.create_task(asyncio.sleep(3)))
        began = time.perf_counter()
        async with http.delete("/projects/gone"):
            pass
        asked = time.perf_counter() - began
        busy = await _latencies(http, calls, asyncio.create_task(_until_gone(http)))
        took = time.perf_counter() - began
    return {"request": asked, "whole": took, "idle": idle, "busy": busy}


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.deletion", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="invocations to delete")
    arguments = parser.parse_args()
    configure_logging(level="ERROR")
    with tempfile.TemporaryDirectory(prefix="control-plane-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        figures = asyncio.run(_measure(folder, count=arguments.count))
    print(f"a project of {arguments.count} invocations, one in ten of them queued")
    print(f"  {'the DELETE request':<42} {figures['request']:>8.3f} s")
    print(f"  {'the whole deletion':<42} {figures['whole']:>8.1f} s")
    for name, seconds in (("before", figures["idle"]), ("meanwhile", figures["busy"])):
        p99 = statistics.quantiles(seconds, n=100)[98]
        worst = max(seconds)
        print(
            f"  {f'other requests {name}, p50 / p99 / worst':<42} "
            f"{statistics.median(seconds):>8.3f} / {p99:.3f} / {worst:.3f} s"
        )


if __name__ == "__main__":
    _main()

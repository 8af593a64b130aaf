"""How long a freed slot stays empty while others wait for it, beside a bare round trip of signals.

A slot goes from one workflow to the next by a signal between two transactions in Postgres. The
baseline (`bench.signals`) is two signals and nothing of ours.
"""

import asyncio
import statistics
from pathlib import Path
from typing import Any

import aiohttp
import psycopg

from bench.instant import InstantProvisioner
from bench.signals import signal_round_trip
from core.settings import TemporalSettings
from core.temporal import connect
from standalone.postgres import EmbeddedPostgres
from standalone.stack import Stack, StackOptions, running_stack

_GAPS = """
    WITH ended AS (
        SELECT terminated_at AS freed, row_number() OVER (ORDER BY terminated_at) AS place
        FROM executions WHERE function_id = %(function)s
    ), made AS (
        SELECT e.created_at AS used, i.created_at AS invoked,
               row_number() OVER (ORDER BY e.created_at) - %(limit)s AS place
        FROM executions e JOIN invocations i ON i.id = e.invocation_id
        WHERE e.function_id = %(function)s
    )
    SELECT extract(epoch FROM used - freed)::float FROM ended JOIN made USING (place)
    -- Only where somebody waited when the slot became free.
    WHERE invoked < freed
"""


async def slot_handover(folder: Path, *, count: int) -> dict[str, float]:
    """Measure on a stack of its own, with workers that are gone at once."""
    options = StackOptions(data_folder=folder / "limit", api_port=0)
    async with running_stack(options, provisioner=InstantProvisioner()) as stack:
        alone = await _gaps(stack, limit=1, count=count)
        crowd = await _gaps(stack, limit=5, count=count * 2)
        client = await connect(TemporalSettings(temporal_address=stack.temporal_address))
        round_trip = await signal_round_trip(client, rounds=count // 4)
    return {
        "signal_round_trip": round_trip,
        "limit_1_p50": statistics.median(alone),
        "limit_1_max": max(alone),
        "limit_5_p50": statistics.median(crowd),
        "limit_5_max": max(crowd),
    }


async def _gaps(stack: Stack, *, limit: int, count: int) -> list[float]:
    name = f"limit-{limit}"
    async with aiohttp.ClientSession(
        base_url=stack.api_url,
        connector=aiohttp.TCPConnector(limit=20),
        headers={"Authorization": f"Bearer {stack.api_key.get_secret_value()}"},
        raise_for_status=True,
    ) as http:
        path = await _deploy(http, name, limit=limit)
        await asyncio.gather(*(_invoke(http, path) for _ in range(count)))
        query = {"status": "RUNNING", "max_results": "1"}
        while True:
            async with http.get(path, params=query) as answer:
                if not (await answer.json())["invocations"]:
                    break
            await asyncio.sleep(0.25)
    return await asyncio.to_thread(_read_gaps, stack, name, limit)


async def _deploy(http: aiohttp.ClientSession, name: str, *, limit: int) -> str:
    function: dict[str, Any] = {
        "function_name": name,
        "resource_spec": {"virtual_cpus": 1, "memory_gbs": 1, "max_concurrency": limit},
        "execution_spec": {"max_retries": 0, "timeout_seconds": 600},
    }
    async with http.put(f"/projects/{name}"):
        pass
    version = {"default_docker_image": "image", "functions": [function]}
    async with http.post(f"/projects/{name}/versions", json=version) as answer:
        version_id = (await answer.json())["version_id"]
    return f"/projects/{name}/versions/{version_id}/functions/{name}/invocations"


async def _invoke(http: aiohttp.ClientSession, path: str) -> None:
    async with http.post(path, json={"input": ""}):
        pass


def _read_gaps(stack: Stack, name: str, limit: int) -> list[float]:
    (postgres,) = (part for part in stack.embedded if isinstance(part, EmbeddedPostgres))
    with psycopg.connect(
        host=postgres.host,
        port=postgres.port,
        user=postgres.user,
        password=postgres.password,
        dbname="control_plane",
    ) as database:
        row = database.execute("SELECT id FROM functions WHERE name = %s", [name]).fetchone()
        assert row is not None
        rows = database.execute(_GAPS, {"function": row[0], "limit": limit}).fetchall()
    return [gap for (gap,) in rows]

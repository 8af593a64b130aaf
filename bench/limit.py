"""How long a freed slot stays empty while others wait for it, beside a bare round trip of signals.

A slot goes from one workflow to the next by a signal between two transactions in Postgres. The
baseline (`bench.signals`) is two signals and nothing of ours.
"""

from pathlib import Path

import aiohttp
from temporalio.client import Client

from bench.calls import client, deploy
from bench.database import rows
from bench.figures import Sample, Section, line
from bench.signals import signal_round_trip
from bench.stacks import RunningStack, stack
from core.temporal.client import connect_config

_GAPS = """
    WITH ended AS (
        SELECT e.terminated_at AS freed, row_number() OVER (ORDER BY e.terminated_at) AS place
        FROM executions e JOIN functions f ON f.id = e.function_id WHERE f.name = %(function)s
    ), made AS (
        SELECT e.created_at AS used, i.created_at AS invoked,
               row_number() OVER (ORDER BY e.created_at) - %(limit)s AS place
        FROM executions e JOIN invocations i ON i.id = e.invocation_id
        JOIN functions f ON f.id = e.function_id
        WHERE f.name = %(function)s
    )
    SELECT extract(epoch FROM used - freed)::float FROM ended JOIN made USING (place)
    -- Only where an invocation waited when the slot became free.
    WHERE invoked < freed
"""


async def slot_handover(folder: Path, *, count: int) -> Section:
    """Measure on a stack of its own, with workers that are gone at once."""
    async with (
        stack(folder / "limit", provisioner="instant") as running,
        client(running.api_url, running.api_key) as http,
    ):
        temporal = await Client.connect(**connect_config(running.temporal))
        trips = [await signal_round_trip(temporal, rounds=10)]
        alone = await _gaps(running, http, limit=1, count=count)
        trips.append(await signal_round_trip(temporal, rounds=10))
        crowd = await _gaps(running, http, limit=5, count=count * 2)
        trips.append(await signal_round_trip(temporal, rounds=10))
    trip = Sample.of([seconds * 1000 for seconds in trips])
    to = ("a round trip", trip.p50)
    return Section(
        title="8 a freed slot stays empty, while others wait for it",
        lines=[
            line("two signals between bare workflows", trip, "ms"),
            line("limit 1", alone, "ms", to=to),
            line("limit 5", crowd, "ms", to=to),
        ],
    )


async def _gaps(
    running: RunningStack, http: aiohttp.ClientSession, *, limit: int, count: int
) -> Sample:
    name = f"limit-{limit}"
    function = await deploy(http, name, limit=limit)
    await function.call_many(count, at_once=20)
    await function.until_none_runs()
    found = await rows(running.registry, _GAPS, function=name, limit=limit)
    return Sample.of([gap * 1000 for (gap,) in found])

"""Records the histories that `test_replay` replays: `make record`, or with ARGS="CASE ..." some.

Each case drives real workflows over real servers and a scripted provisioner. A history that exists
is kept, unless its case is named: one that fails to replay asks for a patch in the workflow, not
for a new history.
"""

import asyncio
import sys
import uuid

from temporalio.client import Client

from core.settings import TemporalSettings
from core.temporal.client import connect
from registry.database.engine import Registry
from tests.replay.cases import CASES
from tests.replay.cases.runs import INVOCATIONS, Case, until_closed
from tests.replay.history_files import HISTORIES, write_history
from tests.support.harness import running_control_plane
from tests.support.servers import TEMPLATE_DATABASE, Servers, fresh_database


async def record(case: Case, client: Client, registry: Registry, *, again: bool) -> None:
    """Play one case on a control plane of its own, and write what it recorded."""
    async with running_control_plane(registry, client, f"record-{uuid.uuid4().hex}") as plane:
        recorded = await case(plane)
        for name, handle in recorded.items():
            await until_closed(handle)
            path = HISTORIES / (name if "/" in name else f"{INVOCATIONS}/{name}")
            path = path.with_suffix(".json")
            if again or not path.exists():
                write_history(await handle.fetch_history(), path)
                print(path.relative_to(HISTORIES))


async def main(names: list[str]) -> None:
    cases = {case.__name__: case for case in CASES}
    unknown = set(names) - set(cases)
    if unknown:
        sys.exit(f"No such case: {', '.join(sorted(unknown))}. There are: {', '.join(cases)}")
    servers = Servers()
    try:
        addresses = servers.start()
        client = await connect(TemporalSettings(temporal_address=addresses["temporal_address"]))
        for name in names or cases:
            with fresh_database(addresses, template=TEMPLATE_DATABASE) as settings:
                registry = Registry(settings)
                await record(cases[name], client, registry, again=name in names)
                await registry.close()
    finally:
        servers.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))

"""A provisioner in a process of its own, for tests that kill that process.

Reads one line of JSON with the state folder, the request and what to do from standard input; prints
one line when that is done or under way; then waits to be killed.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.ids import ExecutionId
from provisioners.base import ResourceSpec, WorkerRequest
from provisioners.conformance import NoBundles
from provisioners.process.config import ProcessProvisionerConfig
from provisioners.process.provisioner import ProcessProvisioner
from tests.support.provisioners.process_backend import DEPLOYMENT, ProcessBackend
from tests.support.provisioners.warm_backend import WarmFirst
from tests.support.repository import ROOT


@contextmanager
def driver(backend: ProcessBackend, **order: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A provisioner in another process, and the line that it printed."""
    order["deployment"] = DEPLOYMENT
    order["state_folder"] = str(backend.config.state_folder)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.provisioners.process_driver"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            # Its log goes to the same place; ours is the line that is JSON.
            yield process, next(line for line in process.stdout if line.startswith("{"))
        finally:
            process.kill()


async def main() -> None:
    order = json.loads(sys.stdin.readline())
    kind = WarmFirst if order.get("warm") else ProcessProvisioner
    provisioner = kind(ProcessProvisionerConfig(state_folder=Path(order["state_folder"])))
    await provisioner.start(order["deployment"], NoBundles())
    if "request" in order:
        spec = ResourceSpec(**order["request"].pop("resource_spec"))
        request = WorkerRequest(**order["request"], resource_spec=spec)
        record = await provisioner.provision(request)
        print(json.dumps({"state": record.state}), flush=True)
    else:
        ending = asyncio.create_task(
            provisioner.terminate(ExecutionId(order["terminate"]), None, grace=order["grace"])
        )
        print("{}", flush=True)
        await ending
    await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(main())

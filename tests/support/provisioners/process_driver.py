"""A provisioner in a process of its own, for tests that kill that process.

Reads one line of JSON with the state folder, the request and what to do from standard input; prints
one line when that is done or under way; then waits to be killed.
"""

import asyncio
import json
import sys
from pathlib import Path

from core.ids import ExecutionId
from provisioners.base import ResourceSpec, WorkerRequest
from provisioners.code.project import open_project
from provisioners.conformance import NoBundles, until
from provisioners.process.config import ProcessProvisionerConfig
from provisioners.process.provisioner import ProcessProvisioner


async def main() -> None:
    order = json.loads(sys.stdin.readline())
    provisioner = ProcessProvisioner(
        ProcessProvisionerConfig(state_folder=Path(order["state_folder"]))
    )
    await provisioner.start(order["deployment"], NoBundles())
    if "request" in order:
        spec = ResourceSpec(**order["request"].pop("resource_spec"))
        request = WorkerRequest(**order["request"], resource_spec=spec)
        if order.get("warm"):
            await _warm_up(provisioner, request)
        record = await provisioner.provision(request)
        print(json.dumps({"state": record.state}), flush=True)
    else:
        ending = asyncio.create_task(
            provisioner.terminate(ExecutionId(order["terminate"]), None, grace=order["grace"])
        )
        print("{}", flush=True)
        await ending
    await asyncio.sleep(60)


async def _warm_up(provisioner: ProcessProvisioner, request: WorkerRequest) -> None:
    warm, project = provisioner.warm_parents(), open_project(request.docker_image)
    warm.want(request, project)

    async def ready() -> bool:
        return warm.is_ready_for(request, project)

    await until(ready, what="a warm parent is ready", timeout=60)


if __name__ == "__main__":
    asyncio.run(main())

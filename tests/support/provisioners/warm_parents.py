"""The warm parents of a test's provisioner: their processes, and waiting for them."""

from contextlib import suppress
from pathlib import Path

from provisioners.base import WorkerRequest
from provisioners.conformance import until, wait_for_end
from provisioners.process.identity import without_zombies
from provisioners.process.provisioner import ProcessProvisioner
from tests.support.provisioners.process_backend import process_ids
from tests.support.provisioners.warm_backend import WarmBackend


def parent_processes(backend: WarmBackend) -> list[int]:
    """The processes of all warm parents, and what their imports have started."""
    found = []
    mark = f"TMPDIR={backend.workers.parent}/warm/".encode()
    for pid in without_zombies(process_ids()):
        with suppress(OSError):
            if mark in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
    return found


async def cold(backend: WarmBackend, request: WorkerRequest) -> list[str]:
    """Run a worker that nothing was prepared for, and wait for what it starts beside itself."""
    backend.all_warm = False
    provisioner = backend.warm_first
    worker = await ProcessProvisioner.provision(provisioner, request)
    await wait_for_end(provisioner, worker)
    return (await provisioner.read_logs(worker, offset="", ended=True)).lines


async def cold_start(backend: WarmBackend, image: str) -> WorkerRequest:
    """Start a worker that nothing was prepared for."""
    backend.all_warm = False
    request = backend.request_for(image)
    provisioner = backend.warm_first
    await ProcessProvisioner.provision(provisioner, request)
    return request


async def settled(backend: WarmBackend, request: WorkerRequest) -> bool:
    """Wait until a function's parent is ready (True) or given up (False)."""
    warm, project = backend.warm_first.warm_parents(), backend.project_of(request)

    async def over() -> bool:
        return warm.is_ready_for(request, project) or warm.count() == 0

    await until(over, what="the warm parent is ready or given up", timeout=60)
    return warm.is_ready_for(request, project)


async def gone(pid: int) -> None:
    async def is_gone() -> bool:
        return pid not in process_ids()

    await until(is_gone, what="the process is gone", timeout=60)


async def no_parents(backend: WarmBackend) -> None:
    async def none() -> bool:
        return backend.warm_first.warm_parents().count() == 0 and not parent_processes(backend)

    await until(none, what="no warm parent is left", timeout=60)

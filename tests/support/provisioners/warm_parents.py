"""The warm parents of a test's provisioner: their processes, and waiting for them."""

from contextlib import suppress
from pathlib import Path

from provisioners.base import WorkerRequest
from provisioners.conformance import until, wait_for_end
from provisioners.process.identity import without_zombies
from provisioners.process.provisioner import ProcessProvisioner
from tests.support.provisioners.process_backend import arguments_of, process_ids
from tests.support.provisioners.warm_backend import WarmBackend


def parent_processes(backend: WarmBackend) -> list[int]:
    """The processes of all warm parents, and what their imports have started."""
    found = []
    mark = b"\0HOME=" + bytes(backend.config.state_folder / "w") + b"/"
    for pid in without_zombies(process_ids()):
        with suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            of_parent = mark in environment and b"_EXECUTION_ID=" not in environment
            if of_parent and b"keeper.py" not in arguments_of(pid):
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


async def living_parent(backend: WarmBackend, request: WorkerRequest) -> int:
    """Wait for a function's only parent; one that was killed may still count for a moment."""
    found: list[int] = []

    async def there_is_one() -> bool:
        await backend.warm_first.warm_up(request)
        found[:] = parent_processes(backend)
        return len(found) == 1

    await until(there_is_one, what="there is one warm parent", timeout=60)
    return found[0]


async def gone(pid: int) -> None:
    async def is_gone() -> bool:
        return pid not in process_ids()

    await until(is_gone, what="the process is gone", timeout=60)


async def no_parents(backend: WarmBackend) -> None:
    async def none() -> bool:
        return backend.warm_first.warm_parents().count() == 0 and not parent_processes(backend)

    await until(none, what="no warm parent is left", timeout=60)

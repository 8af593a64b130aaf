"""The record of a worker, as the registry keeps it: the machine, the folder and the shim."""

import socket
from typing import Any

from core.ids import ExecutionId
from provisioners.base import WorkerRecord
from provisioners.process.folder import WorkerFolder
from provisioners.process.identity import ProcessIdentity, boot_id


def record_of(
    execution_id: ExecutionId, folder: WorkerFolder, shim: ProcessIdentity | None
) -> WorkerRecord:
    """Make the record of a worker on this machine; without a shim it has never started."""
    state: dict[str, Any] = {
        "host": socket.gethostname(),
        "boot_id": boot_id(),
        "folder": str(folder.path),
    }
    if shim is not None:
        state |= {"id": str(shim.pid), "pid": shim.pid, "started": shim.started}
    return WorkerRecord(execution_id=execution_id, state=state)


def shim_in(worker: WorkerRecord | None) -> ProcessIdentity | None:
    """Read the identity of the shim; None if the record names none."""
    if worker is None or "pid" not in worker.state:
        return None
    return ProcessIdentity(worker.state["pid"], worker.state["started"])


def elsewhere(worker: WorkerRecord) -> str | None:
    """Say so if a worker belongs to another machine; None if it belongs to this one.

    The same kernel is the same machine, also from within another container: locks work there. After
    a reboot the kernel is another one, and the host name the same.
    """
    host = worker.state.get("host")
    if worker.state.get("boot_id") == boot_id() or host == socket.gethostname():
        return None
    return f"the worker runs on the host {host}; only a Temporal worker there can reach it"

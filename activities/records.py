"""A worker as the registry has kept it, in the words of the provisioner contract."""

from core.ids import ExecutionId
from provisioners.base import WorkerRecord
from registry.database.tables import Execution


def record_of(execution: Execution) -> WorkerRecord | None:
    """Give what the provisioner has said about an execution's worker; None if it has not yet."""
    if execution.worker is None:
        return None
    return WorkerRecord(
        execution_id=ExecutionId(execution.id),
        state=execution.worker,
        details=execution.worker_details,
    )

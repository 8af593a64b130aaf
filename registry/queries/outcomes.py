"""Whether workers have reported their outcomes."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from core.ids import ExecutionId
from core.states import WorkerStatus
from registry.database.tables import Execution


async def awaits_outcome(session: AsyncSession, execution_id: ExecutionId) -> bool:
    """Say whether an execution can still get its outcome: it has none, and is open."""
    found = await session.scalar(
        select(Execution.id).where(
            Execution.id == execution_id,
            Execution.outcome.is_(None),
            Execution.worker_status != WorkerStatus.TERMINATED,
        )
    )
    return found is not None

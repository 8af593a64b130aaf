"""Tells a provisioner that workers have reported, where it does not see them end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from core.ids import ExecutionId
from provisioners.base import Provisioner
from registry.changes import Changes
from registry.database.engine import Registry
from registry.queries.workers import awaits_outcome

logger = structlog.get_logger(__name__)

_PAUSE_AFTER_ERROR = 1.0
"""Seconds until the registry or the provisioner is tried again."""


class OutcomeFollower:
    """Calls `Provisioner.outcome_reported` when an execution has its outcome, or cannot get one.

    Args:
        provisioner: is told.
        registry: where outcomes are recorded.
        changes: says when to look there; None for a provisioner that is not to be told.
    """

    def __init__(
        self, provisioner: Provisioner, registry: Registry, changes: Changes | None
    ) -> None:
        self._provisioner = provisioner
        self._registry = registry
        self._changes = changes

    @asynccontextmanager
    async def following(self, execution_id: ExecutionId) -> AsyncIterator[None]:
        """Follow an execution during the block. An outcome that came before counts too."""
        if self._changes is None:
            yield
            return
        task = asyncio.create_task(self._follow(execution_id, self._changes))
        try:
            yield
        finally:
            task.cancel()

    async def _follow(self, execution_id: ExecutionId, changes: Changes) -> None:
        with changes.watch(execution_id) as changed:
            while True:
                # Cleared before the row is read: a change after that is not missed.
                changed.clear()
                try:
                    async with self._registry.autocommit() as session:
                        awaited = await awaits_outcome(session, execution_id)
                    if not awaited:
                        await self._provisioner.outcome_reported(execution_id)
                        return
                except Exception as error:  # noqa: BLE001 - untold, the worker would never end
                    logger.warning(
                        "outcome_not_passed_on",
                        execution_id=execution_id,
                        error=f"{type(error).__name__}: {error}",
                    )
                    await asyncio.sleep(_PAUSE_AFTER_ERROR)
                else:
                    await changed.wait()

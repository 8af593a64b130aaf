"""Faults as they come about: by a plan, or one after another."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chaos.cluster import Cluster
from tests.chaos.faults import Fault
from tests.chaos.load import Load
from tests.chaos.report import say

_RECOVERY_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Healed:
    """A fault that is over."""

    fault: Fault
    at: float
    """When it was over, on the clock of `time.monotonic`."""


@dataclass(kw_only=True)
class Storm:
    """What goes wrong, and what has gone wrong."""

    cluster: Cluster
    plan: Sequence[Fault]
    under_way: list[Fault] = field(default_factory=list)
    healed: list[Healed] = field(default_factory=list)

    async def run(self) -> None:
        """Let each fault come at its time."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in self.plan:
                await asyncio.sleep(began + fault.at - time.monotonic())
                group.create_task(self._run_one(fault))

    async def run_one_by_one(self, loads: Sequence[Load]) -> list[str]:
        """Let a fault come when calls succeed again after the one before.

        Returns:
            Those after which no call has succeeded for long.
        """
        lasting = []
        for fault in self.plan:
            await self._run_one(fault)
            healed = self.healed[-1]
            end = healed.at + _RECOVERY_SECONDS
            while not all(load.succeeded_since(healed.at) for load in loads):
                if time.monotonic() > end:
                    lasting.append(f"{fault}: no call has succeeded {_RECOVERY_SECONDS:g} s after")
                    break
                await asyncio.sleep(0.05)
        return lasting

    async def _run_one(self, fault: Fault) -> None:
        self.under_way.append(fault)
        ends_at = time.monotonic() + fault.seconds
        await self.cluster.begin(fault)
        await asyncio.sleep(ends_at - time.monotonic())
        self.cluster.end(fault)
        self.under_way.remove(fault)
        self.healed.append(Healed(fault=fault, at=time.monotonic()))

    async def tell_progress(self, loads: Sequence[Load]) -> None:
        """Print a line from time to time, until cancelled."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(10)
            accepted = sum(len(load.accepted) for load in loads)
            over = sum(load.over() for load in loads)
            now = ", ".join(map(str, self.under_way)) or "none"
            say(f"{time.monotonic() - began:4.0f} s: {accepted} accepted, {over} over; now: {now}")

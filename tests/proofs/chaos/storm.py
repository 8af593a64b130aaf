"""Faults as they come about: by a plan, or one after another."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.proofs.chaos.cluster import Cluster
from tests.proofs.chaos.faults import Fault
from tests.proofs.chaos.load import Load
from tests.proofs.chaos.report import say

_RECOVERY_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Healed:
    """A fault that is over."""

    fault: Fault
    at: float
    """When it was over, on the clock of `time.monotonic`."""
    was_last: bool
    """Whether no other fault was under way then."""


@dataclass(kw_only=True)
class Storm:
    """What goes wrong, and what has gone wrong."""

    cluster: Cluster
    plan: Sequence[Fault]
    under_way: list[Fault] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    """When each fault has begun, on the same clock."""
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
        self.begun.append(time.monotonic())
        ends_at = time.monotonic() + fault.seconds
        await self.cluster.begin(fault)
        await asyncio.sleep(ends_at - time.monotonic())
        self.cluster.end(fault)
        self.under_way.remove(fault)
        self.healed.append(Healed(fault=fault, at=time.monotonic(), was_last=not self.under_way))

    def recovery(self, loads: Sequence[Load]) -> dict[str, list[float]]:
        """Give the seconds from the end of a fault until calls made after it succeeded everywhere.

        Only for faults with no other one beside them then, and none before the success. By fault.
        """
        times: defaultdict[str, list[float]] = defaultdict(list)
        for one in self.healed:
            firsts = [load.first_success_since(one.at) for load in loads]
            known = [first for first in firsts if first is not None]
            if not one.was_last or len(known) < len(loads):
                continue
            recovered_at = max(known)
            if not any(one.at < begun < recovered_at for begun in self.begun):
                times[str(one.fault)].append(recovered_at - one.at)
        return times

    async def tell_progress(self, loads: Sequence[Load]) -> None:
        """Print a line from time to time, until cancelled."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(10)
            accepted = sum(len(load.accepted) for load in loads)
            over = sum(load.over() for load in loads)
            now = ", ".join(map(str, self.under_way)) or "none"
            say(f"{time.monotonic() - began:4.0f} s: {accepted} accepted, {over} over; now: {now}")

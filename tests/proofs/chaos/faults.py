"""What goes wrong, and when: a plan that follows from its seed alone."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What is done to a process, or to the connections to a server."""

    KILL = "kill"
    """SIGKILL; started again when the fault is over."""
    KILL_CHILD = "kill-child"
    """SIGKILL of one child of a server, which must mend that by itself."""
    STOP = "stop"
    """SIGSTOP, and SIGCONT when the fault is over."""
    TERM = "term"
    """SIGTERM; started again when the fault is over."""
    REFUSE = "refuse"
    """Connections are cut, new ones are closed at once."""
    SILENCE = "silence"
    """Connections stay, and nothing gets through."""
    DELAY = "delay"
    """What is sent arrives late."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong."""

    at: float
    """Seconds from the beginning of the load."""
    seconds: float
    """How long it lasts."""
    kind: Kind
    target: str
    """Name of a process or of a link."""

    @property
    def until(self) -> float:
        return self.at + self.seconds

    def __str__(self) -> str:
        return f"{self.kind} {self.target}"


_WEIGHTS: Mapping[Kind, int] = {
    Kind.KILL: 5,
    Kind.STOP: 3,
    Kind.TERM: 2,
    Kind.REFUSE: 2,
    Kind.SILENCE: 2,
    Kind.DELAY: 2,
    Kind.KILL_CHILD: 1,
}


def one_by_one(*, seconds: float, targets: Mapping[str, Sequence[Kind]]) -> list[Fault]:
    """List each fault that there can be, once; all last equally long, and none has a time."""
    return [
        Fault(at=0, seconds=0 if kind is Kind.KILL_CHILD else seconds, kind=kind, target=target)
        for target, kinds in targets.items()
        for kind in kinds
    ]


def plan_faults(
    seed: int, *, seconds: float, longest: float, targets: Mapping[str, Sequence[Kind]]
) -> list[Fault]:
    """Make the plan: most faults are short, a few take as long as `longest`; several may coincide.

    Args:
        seed: of the random numbers.
        seconds: length of the load; no fault begins or ends after it.
        longest: seconds that a fault lasts at most.
        targets: name -> what can be done to it.
    """
    chance = random.Random(seed)  # noqa: S311 - a plan that can be repeated, no secret
    plan: list[Fault] = []
    busy_until = dict.fromkeys(targets, 0.0)
    at = min(2.0, seconds / 10)
    while at < seconds:
        target = chance.choice([name for name, until in busy_until.items() if until <= at])
        kinds = targets[target]
        (kind,) = chance.choices(kinds, weights=[_WEIGHTS[kind] for kind in kinds])
        lasts = longest if chance.random() < 0.1 else chance.expovariate(8 / longest)
        lasts = round(min(lasts, longest, seconds - at), 1)
        plan.append(Fault(at=round(at, 1), seconds=lasts, kind=kind, target=target))
        # A moment of peace for the same one, to start again.
        busy_until[target] = at + lasts + 2
        at += chance.expovariate(1 / min(5.0, longest / 2)) + 0.3
        while all(until > at for until in busy_until.values()):
            at += 0.5
    return plan

"""What a run prints."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from tests.chaos.faults import Fault
from tests.chaos.invariants import Finding
from tests.chaos.load import Accepted

_SHOWN_BREACHES = 20
_PLAIN_FUNCTIONS = {"work", "once"}


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def say_faults(healed: Sequence[tuple[Fault, float]], restarts: Mapping[str, int]) -> None:
    """Print how often what went wrong."""
    say("\nFaults")
    by_kind: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for fault, _ in healed:
        by_kind[fault.kind][fault.target] += 1
    for kind, targets in sorted(by_kind.items()):
        listed = ", ".join(f"{target} {count}" for target, count in targets.most_common())
        say(f"  {kind:<11} {targets.total():>4}   {listed}")
    started_again = ", ".join(f"{name} {count}" for name, count in restarts.items() if count)
    say(f"  started again: {started_again or 'nothing'}")


def say_recovery(healed: Sequence[tuple[Fault, float]], accepted: Sequence[Accepted]) -> None:
    """Print how soon after the end of each fault a new call had succeeded.

    Only faults count that no other one overlapped until then. A call that fails and is tried again
    by its script, or works for long, counts with all of its time.
    """
    times: defaultdict[str, list[float]] = defaultdict(list)
    others = [(at - fault.seconds, at) for fault, at in healed]
    for fault, at in healed:
        after = [
            one.over_at
            for one in accepted
            if one.posted_at >= at
            and one.over_at is not None
            and one.task.function in _PLAIN_FUNCTIONS
        ]
        if not after:
            continue
        first = min(after)
        overlapping = sum(begun < first and ended > at - fault.seconds for begun, ended in others)
        if overlapping == 1:
            times[fault.kind].append(first - at)
    say("\nSeconds from the end of a fault to the end of the first call made after it")
    for kind, seconds in sorted(times.items()):
        say(
            f"  {kind:<11} {len(seconds):>4}   p50 {statistics.median(seconds):.1f}, "
            f"longest {max(seconds):.1f}"
        )
    if not times:
        say("  (no fault was without another one beside it)")


def say_findings(findings: Sequence[Finding]) -> bool:
    """Print each invariant with what was found; returns whether all hold."""
    say("\nInvariants")
    for finding in findings:
        word = "BROKEN" if finding.breaches else "ok"
        say(f"  {word:<6} {finding.invariant} ({finding.checked})")
        for breach in finding.breaches[:_SHOWN_BREACHES]:
            say(f"           {breach}")
        if len(finding.breaches) > _SHOWN_BREACHES:
            say(f"           ... and {len(finding.breaches) - _SHOWN_BREACHES} more")
    broken = sum(bool(finding.breaches) for finding in findings)
    say(f"\n{len(findings)} invariants, {broken} broken")
    return broken == 0

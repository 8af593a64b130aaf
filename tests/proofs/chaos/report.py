"""What a run prints."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from tests.proofs.chaos.faults import Fault
from tests.proofs.chaos.invariants import Finding

_SHOWN_BREACHES = 20


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def say_faults(faults: Sequence[Fault], restarts: Mapping[str, int]) -> None:
    """Print how often what went wrong."""
    say("\nFaults")
    by_kind: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for fault in faults:
        by_kind[fault.kind][fault.target] += 1
    for kind, targets in sorted(by_kind.items()):
        listed = ", ".join(f"{target} {count}" for target, count in targets.most_common())
        say(f"  {kind:<11} {targets.total():>4}   {listed}")
    started_again = ", ".join(f"{name} {count}" for name, count in restarts.items() if count)
    say(f"  started again: {started_again or 'nothing'}")


def say_recovery(seconds: Mapping[str, Sequence[float]]) -> None:
    """Print how long it took from the end of a fault, by what it was."""
    say("\nSeconds from the end of a fault, with no other under way, to the success of a new call")
    if not seconds:
        say("  (at the end of each fault another one was under way)")
    everything = [time for times in seconds.values() for time in times]
    for name, times in [*sorted(seconds.items()), ("all", everything)]:
        if times:
            say(
                f"  {name:<26} {len(times):>4}   p50 {statistics.median(times):5.1f}"
                f"   longest {max(times):5.1f}"
            )


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

"""Figures with their spread, as one table and as JSON: what every measurement gives."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Repeated measurements of one thing."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Take measurements; at least one."""
        return cls(values=tuple(values))

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.values)

    @property
    def p50(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def p99(self) -> float:
        """What 99 of 100 do not exceed; of fewer than a hundred, the largest."""
        return self.quantile(0.99)

    @property
    def spread(self) -> tuple[float, float]:
        """The middle half: a quarter of the measurements is below it, a quarter above."""
        return self.quantile(0.25), self.quantile(0.75)

    def quantile(self, part: float) -> float:
        """Give the smallest measurement that so large a part does not exceed."""
        ordered = sorted(self.values)
        return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table."""

    name: str
    unit: str
    value: float
    n: int = 1
    """Repetitions behind `value`."""
    spread: tuple[float, float] | None = None
    """The middle half of the repetitions, in `unit`."""
    baseline: str | None = None
    """What `ratio` is a ratio to; None if this line is no comparison."""
    ratio: float | None = None
    target: str | None = None
    """What the ratio, or the value, is meant to be."""
    met: bool | None = None
    """Whether it is."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """The lines of one item."""

    title: str
    lines: list[Line]


def line(
    name: str,
    sample: Sample,
    unit: str,
    *,
    at: float = 0.5,
    to: tuple[str, float] | None = None,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Line:
    """Make a line of a sample.

    Args:
        name: what was measured.
        sample: the measurements.
        unit: theirs.
        at: which quantile is shown.
        to: the baseline's name and its figure, for the ratio.
        at_most: the ratio (without a baseline, the value) that is wanted at most.
        at_least: the one that is wanted at least.
    """
    value = sample.p50 if at == 0.5 else sample.quantile(at)
    ratio = None if to is None or not to[1] else value / to[1]
    judged = value if ratio is None else ratio
    target, met = None, None
    if at_most is not None:
        target, met = f"<= {at_most:g}", judged <= at_most
    elif at_least is not None:
        target, met = f">= {at_least:g}", judged >= at_least
    return Line(
        name=name,
        unit=unit,
        value=value,
        n=sample.n,
        # Of the median only: it says nothing about the largest ones.
        spread=sample.spread if sample.n > 1 and at == 0.5 else None,
        baseline=None if to is None else to[0],
        ratio=ratio,
        target=target,
        met=met,
    )


def print_table(sections: Sequence[Section]) -> None:
    """Print all sections as one table."""
    head = f"{'':<46} {'figure':>10} {'unit':<6} {'middle half':>19} {'n':>6} {'ratio':>7}"
    print(f"{head}  to / target")
    for section in sections:
        print(section.title)
        for entry in section.lines:
            print(f"  {_text(entry)}".rstrip())


def _text(entry: Line) -> str:
    spread = (
        "" if entry.spread is None else f"{_number(entry.spread[0])} .. {_number(entry.spread[1])}"
    )
    ratio = "" if entry.ratio is None else f"{entry.ratio:.2f}"
    notes = [entry.baseline or ""]
    if entry.target is not None:
        notes.append(f"({entry.target}: {'met' if entry.met else 'MISSED'})")
    return (
        f"{entry.name:<44} {_number(entry.value):>10} {entry.unit:<6} {spread:>19} "
        f"{entry.n:>6} {ratio:>7}  {' '.join(note for note in notes if note)}"
    )


def _number(value: float) -> str:
    """Give three digits of a number, and all of a large one."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def as_json(section: Section) -> Json:
    """Give a section for the file of figures."""
    return {
        entry.name: {
            name: value
            for name, value in (
                ("value", entry.value),
                ("unit", entry.unit),
                ("n", entry.n),
                ("middle_half", entry.spread),
                ("ratio", entry.ratio),
                ("baseline", entry.baseline),
                ("target", entry.target),
                ("met", entry.met),
            )
            if value is not None
        }
        for entry in section.lines
    }

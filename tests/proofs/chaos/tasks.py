"""What is asked of the control plane, and what must come of it whatever goes wrong meanwhile."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from core.states import Outcome, Phase
from tests.support.harness import function_spec

Json = dict[str, Any]

LIMIT = 3
"""The concurrency of `limited`."""
RETRIES = 3
BRIEF_SECONDS = 6
_LONG_SECONDS = 7200
"""More than any run lasts: outages must not end what is not meant to time out."""

FUNCTIONS = (
    function_spec("work", retries=RETRIES, timeout=_LONG_SECONDS),
    function_spec("limited", concurrency=LIMIT, retries=RETRIES, timeout=_LONG_SECONDS),
    function_spec("steps", retries=RETRIES, timeout=_LONG_SECONDS),
    function_spec("once", timeout=_LONG_SECONDS),
    function_spec("endless", timeout=_LONG_SECONDS),
    function_spec("brief", retries=RETRIES, timeout=BRIEF_SECONDS),
    function_spec("fan", timeout=_LONG_SECONDS),
)
LIMITS = {"limited": LIMIT}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One call, and its end as it is written down before."""

    key: str
    """Names it everywhere, and makes the call idempotent."""
    function: str
    argument: Json
    phase: Phase
    outcomes: list[Outcome | None] | None = None
    """Of its executions, in turn; None if it depends on when it is ended."""
    output: object = None
    """What the last execution leaves; with SUCCEEDED."""
    lines: list[list[str]] = field(default_factory=list)
    """What each execution prints."""
    cancel_after: float | None = None
    """Seconds after which the caller cancels it."""
    children: list["Task"] = field(default_factory=list)

    @property
    def is_plain(self) -> bool:
        """Whether it does nothing but return, at once."""
        return self.function == "work" and self.argument["acts"] == [{"end": "succeed"}]


class TaskMaker:
    """Makes tasks from a seed."""

    def __init__(self, seed: int, *, marks: str, name: str, longest: float) -> None:
        self._chance = random.Random(f"{seed}-{name}")  # noqa: S311 - to be repeated, no secret
        self._marks = marks
        self._name = name
        self._longest = longest
        self._count = 0

    def mixed(self) -> Iterator[Task]:
        """Make one after another, of mixed kinds."""
        makers = {
            self._succeed: 5,
            self._fail_for_good: 1,
            self._steps: 2,
            self._limited: 4,
            self._long: 1,
            self._cancelled: 2,
            self._timed_out: 1,
            self._fan: 1,
            self._cancelled_fan: 1,
        }
        while True:
            (make,) = self._chance.choices(list(makers), weights=list(makers.values()))
            yield make()

    def plain(self) -> Iterator[Task]:
        """Make one after another that returns at once."""
        while True:
            yield self._plain()

    def _plain(self) -> Task:
        return self._make("work", [{"end": "succeed"}])

    def _make(
        self,
        function: str,
        acts: list[Json],
        *,
        phase: Phase = Phase.SUCCEEDED,
        argument: Json | None = None,
        **expected: Any,
    ) -> Task:
        self._count += 1
        key = f"{self._name}-{self._count}"
        result = {"key": key, "payload": self._payload()}
        outcomes = [_OUTCOME_OF_END[act["end"]] for act in acts if "end" in act]
        return Task(
            key=key,
            function=function,
            argument={
                "marks": self._marks,
                "key": key,
                "acts": acts,
                "result": result,
                **(argument or {}),
            },
            phase=phase,
            **{
                "outcomes": outcomes or None,
                "output": result,
                "lines": [_lines(key, number, act) for number, act in enumerate(acts)],
                **expected,
            },
        )

    def _payload(self) -> str:
        alphabet = 'abc "\\\n\t\u00e4\u20ac\U0001f600\u2028<&'
        length = int(self._chance.expovariate(1 / 200))
        return "".join(self._chance.choice(alphabet) for _ in range(length))

    def _act(self, end: str, **more: Any) -> Json:
        seconds = round(self._chance.expovariate(2), 2)
        act = {"end": end, "seconds": min(seconds, 5.0), "lines": self._chance.randrange(4)}
        return act | more

    def _ends_before_success(self) -> list[Json]:
        """Give the acts that fail: none in half of all cases."""
        if self._chance.random() < 0.5:
            return []
        count = self._chance.randint(1, RETRIES)
        ends = self._chance.choices(["fail", "vanish"], k=count)
        return [self._act(end, error=f"as it is written: {end}") for end in ends]

    def _succeed(self) -> Task:
        return self._make("work", [*self._ends_before_success(), self._act("succeed")])

    def _limited(self) -> Task:
        acts = [*self._ends_before_success(), self._act("succeed")]
        return self._make("limited", acts, argument={"slots": LIMIT})

    def _fail_for_good(self) -> Task:
        end = self._chance.choice(["fail", "vanish"])
        acts = [self._act(end, error="as it is written: for good")]
        return self._make("once", acts, phase=Phase.FAILED, output=None)

    def _steps(self) -> Task:
        count = self._chance.randint(1, 30)
        act = self._act("succeed", steps=count, pause=round(self._chance.uniform(0, 0.2), 3))
        before = [
            act | {"end": end, "error": "as it is written", "steps": self._chance.randint(1, 5)}
            for end in self._chance.choices(["fail", "vanish"], k=self._chance.randrange(2))
        ]
        task = self._make("steps", [*before, act])
        return replace(task, output={"step": count, "payload": task.output})

    def _long(self) -> Task:
        seconds = round(self._chance.uniform(0.3, 1) * self._longest, 1)
        return self._make("work", [self._act("succeed") | {"seconds": seconds}])

    def _cancelled(self) -> Task:
        # The grace of the control plane is 1 s here: some take longer, and are killed.
        act = {"lines": 1, "clean_up": self._chance.choice([0, 0, 0.3, 5])}
        return self._make(
            "endless",
            [act],
            phase=Phase.CANCELLED,
            cancel_after=round(self._chance.expovariate(1 / 3), 2),
        )

    def _timed_out(self) -> Task:
        return self._make("brief", [{}], phase=Phase.TIMED_OUT)

    def _fan(self) -> Task:
        children = [
            self._chance.choice([self._succeed, self._limited])()
            for _ in range(self._chance.randint(1, 3))
        ]
        return self._make_fan(children, output=[_as_seen_by_parent(child) for child in children])

    def _cancelled_fan(self) -> Task:
        children = [
            replace(self._cancelled(), cancel_after=None) for _ in range(self._chance.randint(1, 2))
        ]
        return self._make_fan(
            children,
            phase=Phase.CANCELLED,
            outcomes=None,
            cancel_after=round(self._chance.expovariate(1 / 4), 2),
        )

    def _make_fan(self, children: list[Task], **expected: Any) -> Task:
        called = [{"function": child.function, "task": child.argument} for child in children]
        return self._make(
            "fan",
            [{"end": "succeed"}],
            argument={"children": called},
            children=children,
            **expected,
        )


_OUTCOME_OF_END = {
    "succeed": Outcome.SUCCEEDED,
    "fail": Outcome.FAILED,
    "vanish": None,
}


def _lines(key: str, number: int, act: Json) -> list[str]:
    return [f"{key} line {line} of execution {number}" for line in range(act.get("lines", 0))]


def _as_seen_by_parent(child: Task) -> Json:
    return {"phase": str(child.phase), "output": child.output}

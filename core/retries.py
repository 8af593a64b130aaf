"""The pause before an invocation's next execution, as a function's retry spec asks for it."""

import math
from dataclasses import dataclass
from typing import Final

LONGEST_PAUSE_SECONDS: Final = 86_400


@dataclass(frozen=True, kw_only=True)
class RetryPauses:
    """How long to wait before each next execution. All in seconds."""

    initial_interval_seconds: int = 1
    """Before the second execution. Temporal can make no shorter pause, and rounds up to seconds."""
    backoff_coefficient: float = 1.0
    """Each further pause is longer by this factor."""
    maximum_interval_seconds: int | None = None
    """No pause is longer; None for a day."""

    @property
    def limit_seconds(self) -> int:
        """The longest pause."""
        return self.maximum_interval_seconds or LONGEST_PAUSE_SECONDS

    def after(self, attempt: int) -> int:
        """Give the whole seconds between the end of an attempt (1, 2, …) and the next one."""
        # Compared as logarithms: a coefficient to the power of 50 may be no float any more.
        growth = (attempt - 1) * math.log(self.backoff_coefficient)
        if growth >= math.log(self.limit_seconds / self.initial_interval_seconds):
            return self.limit_seconds
        return math.ceil(round(self.initial_interval_seconds * math.exp(growth), 6))

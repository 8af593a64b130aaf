"""How workflows call activities: timeouts and retries in one place."""

from datetime import timedelta
from typing import Final, TypedDict

from temporalio.common import RetryPolicy


class _LocalCall(TypedDict):
    start_to_close_timeout: timedelta
    retry_policy: RetryPolicy
    local_retry_threshold: timedelta


REGISTRY_CALL: Final[_LocalCall] = {
    "start_to_close_timeout": timedelta(seconds=20),
    # No limit: while Postgres is away, nothing can be decided, and nothing is lost. But each retry
    # after a pause that is a timer of the server writes six events, and Temporal terminates a
    # workflow at 51,200. With a minute that is after six days (the sweep goes on even then); with
    # ten seconds it would be after one. A pause is half as long as Postgres has been away so far,
    # so what was away for seconds is found again within seconds.
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(milliseconds=100),
        backoff_coefficient=1.5,
        maximum_interval=timedelta(minutes=1),
    ),
    # Longer pauses are timers of the server: a Temporal worker that is told to stop would wait for
    # the ones it keeps itself.
    "local_retry_threshold": timedelta(seconds=1),
}

REGISTRY_RETRIES: Final = RetryPolicy(
    initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=10)
)
"""For ordinary activities that speak to Postgres for longer. No limit, for the same reason."""

PROVISIONER_RETRIES: Final = RetryPolicy(
    initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=15)
)
"""No limit either: a cancel or the deadline ends the attempts, a typed failure does so at once."""

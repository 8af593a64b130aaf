"""When an invocation times out. This is the one place that says so.

The contract counts in whole seconds: a timeout has come when `now - creation_time >
timeout_seconds` with both times cut to seconds. Existing clients judge by the same integers
whether an aborted execution was cancelled or timed out, so a signal must not be sent earlier.
The workflow (`workflows/invocation.py`) waits for this moment;
`registry/transitions/decisions.py` refuses new executions after it.
"""

from datetime import UTC, datetime, timedelta


def deadline_of(created_at: datetime, *, timeout_seconds: int) -> datetime:
    """Give the moment (UTC) from which an invocation counts as timed out.

    Args:
        created_at: creation of the invocation; waiting and earlier attempts count.
        timeout_seconds: from the function's execution spec.
    """
    whole_second = created_at.astimezone(UTC).replace(microsecond=0)
    return whole_second + timedelta(seconds=timeout_seconds + 1)

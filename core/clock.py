"""The wall clock of this process. Postgres' own clock is not used, so that rows and ids agree."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Give the time, with its zone."""
    return datetime.now(UTC)

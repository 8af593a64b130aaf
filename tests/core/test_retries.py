import pytest

from core.retries import LONGEST_PAUSE_SECONDS, RetryPauses


@pytest.mark.parametrize(
    ("pauses", "expected"),
    [
        (RetryPauses(), [1, 1, 1, 1]),
        (RetryPauses(initial_interval_seconds=3), [3, 3, 3, 3]),
        (RetryPauses(initial_interval_seconds=2, backoff_coefficient=2), [2, 4, 8, 16]),
        (RetryPauses(backoff_coefficient=1.5), [1, 2, 3, 4]),
        (
            RetryPauses(
                initial_interval_seconds=5, backoff_coefficient=10, maximum_interval_seconds=60
            ),
            [5, 50, 60, 60],
        ),
    ],
)
def test_pauses_grow_up_to_their_limit(pauses: RetryPauses, expected: list[int]) -> None:
    assert [pauses.after(attempt) for attempt in (1, 2, 3, 4)] == expected


def test_no_pause_is_longer_than_a_day() -> None:
    assert RetryPauses(backoff_coefficient=100).after(50) == LONGEST_PAUSE_SECONDS

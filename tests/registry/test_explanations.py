"""What people read: the detail of a phase, with what is in the way."""

import pytest

from core.states import Phase
from registry.explanations import shown_detail

TROUBLE = "the provisioner says: not at home; tried again"


@pytest.mark.parametrize(
    ("phase", "detail", "trouble", "shown"),
    [
        (Phase.RUNNING, "attempt 1 of 2", None, "attempt 1 of 2"),
        (Phase.RUNNING, None, None, None),
        (Phase.PROVISIONING, "attempt 1 of 2", TROUBLE, f"attempt 1 of 2: {TROUBLE}"),
        (Phase.QUEUED, None, TROUBLE, TROUBLE),
        (
            Phase.CANCELLING,
            "the timeout has passed",
            "busy",
            "the timeout has passed; it could not be ended so far: busy",
        ),
        # A server that does not know the column has ended it.
        (Phase.SUCCEEDED, "attempt 1 of 2: succeeded", TROUBLE, "attempt 1 of 2: succeeded"),
        (Phase.CANCELLED, None, TROUBLE, None),
    ],
)
def test_detail_and_trouble_make_one_sentence(
    phase: Phase, detail: str | None, trouble: str | None, shown: str | None
) -> None:
    assert shown_detail(phase, detail, trouble) == shown

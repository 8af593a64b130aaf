import structlog

from api.requests.after_commit import AfterCommit


async def test_a_request_to_temporal_that_fails_is_logged_and_no_answer_fails_for_it() -> None:
    async def fail() -> None:
        raise ValueError("a mistake of ours")

    with structlog.testing.capture_logs() as logs:
        await AfterCommit().send(fail())

    (entry,) = logs
    assert entry["event"] == "errand_failed"
    assert "a mistake of ours" in str(entry["exc_info"])

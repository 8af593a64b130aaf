"""EXT-3: what error answers, silence and lost connections mean."""

import threading
from collections.abc import Callable
from datetime import timedelta
from email.utils import format_datetime

import pytest
from structlog.testing import capture_logs

from core.clock import utc_now
from provisioners.base import (
    UnrecoverableProvisioningError,
)
from provisioners.conformance import NoBundles
from provisioners.external.provisioner import ExternalProvisioner
from tests.support.ports import free_port
from tests.support.provisioners.external_requests import (
    ASK,
    KEY,
    MAKING,
    REQUEST,
    RIGHT,
    TOKEN,
    assert_named,
    error_of,
    final_error_of,
    passing_error_of,
    provisioner_at,
)
from tests.support.provisioners.http_peer import Answer, HttpPeer

# EXT-3: error answers and no answers.


@pytest.mark.parametrize("status", [400, 404])
@pytest.mark.parametrize("verb", ASK)
async def test_ext_3_a_refusal_names_status_and_detail(
    peer: HttpPeer, external: ExternalProvisioner, verb: str, status: int
) -> None:
    peer.behave = lambda call: (
        Answer(status=status, body={"detail": "there is no such thing"})
        if call.verb == verb
        else Answer(body=RIGHT[call.verb])
    )

    await assert_named(external, verb, f"(Status code: {status}): there is no such thing")


@pytest.mark.parametrize("raw", [b"<html>", b"", b"[]", b'{"detail": [{"loc": ["x"]}]}'])
@pytest.mark.parametrize("verb", ASK)
async def test_ext_3_a_refusal_without_a_readable_detail_names_the_status(
    peer: HttpPeer, external: ExternalProvisioner, verb: str, raw: bytes
) -> None:
    peer.behave = lambda call: (
        Answer(status=400, raw=raw) if call.verb == verb else Answer(body=RIGHT[call.verb])
    )

    await assert_named(external, verb, "Status code: 400")


@pytest.mark.parametrize("status", [304, 408, 429, 500, 502, 503])
@pytest.mark.parametrize("verb", MAKING)
async def test_ext_3_what_may_pass_is_tried_again(
    peer: HttpPeer, external: ExternalProvisioner, verb: str, status: int
) -> None:
    peer.script[verb] = [Answer(status=status, raw=b"" if status == 304 else b"oh")]

    error = await passing_error_of(ASK[verb](external))

    assert f"Status code: {status}" in str(error)
    assert error.retry_after is None


def in_http(delay: timedelta) -> str:
    return format_datetime(utc_now() + delay, usegmt=True)


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        (lambda: "17", 17, 17),
        (lambda: "999999999999", 3600, 3600),
        (lambda: in_http(timedelta(minutes=20)), 900, 1200),
        (lambda: in_http(timedelta(days=3)), 3600, 3600),
        (lambda: "0", None, None),
        (lambda: "-5", None, None),
        (lambda: "soon", None, None),
        (lambda: in_http(timedelta(days=-3)), None, None),
        (lambda: "Mon, 99 Nov 1998 10:00:00 GMT", None, None),
    ],
)
async def test_ext_3_retry_after_is_honoured_within_bounds(
    peer: HttpPeer,
    external: ExternalProvisioner,
    header: Callable[[], str],
    low: float | None,
    high: float | None,
) -> None:
    for status in (429, 503):
        peer.script["provision"] = [Answer(status=status, headers={"Retry-After": header()})]

        error = await passing_error_of(external.provision(REQUEST))

        if low is None or high is None:
            assert error.retry_after is None
        else:
            assert error.retry_after is not None
            assert low <= error.retry_after <= high


async def test_ext_3_a_silent_server_is_a_timeout(peer: HttpPeer) -> None:
    held = threading.Event()
    peer.behave = lambda _: Answer(hold=held)
    provisioner = provisioner_at(peer.url, timeout=0.3, log_patience_seconds=0)
    await provisioner.start("test", NoBundles())
    try:
        for verb in MAKING:
            error = await passing_error_of(ASK[verb](provisioner))
            assert str(error) == f"The provisioner has not answered /{verb} within 0.3 s"
        for verb in ("terminate", "check_status", "get_logs"):
            await assert_named(provisioner, verb, "within 0.3 s")
    finally:
        held.set()
        await provisioner.close()


async def test_ext_3_a_refused_connection_may_pass() -> None:
    provisioner = provisioner_at(f"http://127.0.0.1:{free_port()}", log_patience_seconds=0)
    await provisioner.start("test", NoBundles())
    try:
        for verb in MAKING:
            assert "ConnectError" in str(await passing_error_of(ASK[verb](provisioner)))
        for verb in ("terminate", "check_status", "get_logs"):
            await assert_named(provisioner, verb, "ConnectError")
    finally:
        await provisioner.close()


@pytest.mark.parametrize("verb", MAKING)
async def test_ext_3_a_connection_that_breaks_may_pass(
    peer: HttpPeer, external: ExternalProvisioner, verb: str
) -> None:
    peer.script[verb] = [Answer(hang_up=True)]

    assert f"/{verb}" in str(await passing_error_of(ASK[verb](external)))


async def test_ext_3_what_is_quoted_is_bounded_and_holds_no_secret(
    peer: HttpPeer, external: ExternalProvisioner
) -> None:
    detail = f"bad\nkey {KEY} and \0 token {TOKEN} \ud800 " + "x" * 10_000
    peer.script["provision"] = [Answer(status=400, body={"detail": detail})]

    error = await final_error_of(external.provision(REQUEST))

    assert "bad key [secret] and \ufffd token [secret] \ufffd xxx" in str(error)


@pytest.mark.parametrize("verb", MAKING)
@pytest.mark.parametrize(
    ("answer", "final"),
    [
        (Answer(status=400, body={"detail": "no room"}), {"prepare", "provision"}),
        (Answer(status=404, body={"detail": "no image"}), {"prepare", "provision"}),
        (Answer(status=422, body={"detail": "no such field"}), {"prepare", "provision"}),
        # Perhaps it was another server that has answered.
        (Answer(status=404, raw=b"<html>"), set()),
        (Answer(status=422, body={"detail": [{"loc": ["x"]}]}), set()),
        (Answer(status=401, body={"detail": "who are you"}), set()),
        (Answer(status=403, body={"detail": "API key is invalid"}), set()),
        (Answer(status=407, body={"detail": "who are you"}), set()),
        # It may have made a worker; there is nothing else that would be left behind.
        (Answer(status=200, raw=b"<html>"), {"prepare"}),
    ],
)
async def test_ext_3_only_a_clear_refusal_is_final(
    peer: HttpPeer, external: ExternalProvisioner, verb: str, answer: Answer, final: set[str]
) -> None:
    peer.script[verb] = [answer]

    error = await error_of(ASK[verb](external))

    assert isinstance(error, UnrecoverableProvisioningError) is (verb in final)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_is_not_accepted_is_named(
    peer: HttpPeer, external: ExternalProvisioner, status: int
) -> None:
    """The operator can mend it, and nobody else."""
    peer.script["provision"] = [Answer(status=status, body={"detail": f"not {KEY}"})]

    with capture_logs() as logs:
        error = await passing_error_of(external.provision(REQUEST))

    told = f"at /provision (Status code: {status}): not [secret]"
    assert str(error) == f"The provisioner does not accept our PROVISIONER_API_KEY {told}"
    (line,) = [line for line in logs if line["event"] == "provisioner_does_not_let_us_in"]
    assert (line["log_level"], line["status"], line["detail"]) == ("error", status, "not [secret]")

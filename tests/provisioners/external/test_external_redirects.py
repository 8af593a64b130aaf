"""EXT-1: no redirect takes the key or a worker's token to another server than the provisioner."""

import pytest
from structlog.testing import capture_logs

from provisioners.conformance import NoBundles
from provisioners.external.provisioner import ExternalProvisioner
from tests.support.provisioners.external_requests import (
    FUNCTION,
    REQUEST,
    RIGHT,
    passing_error_of,
    provisioner_at,
)
from tests.support.provisioners.http_peer import Answer, HttpPeer


@pytest.mark.parametrize("status", [307, 308])
async def test_ext_1_redirects_within_the_server_are_followed(
    peer: HttpPeer, external: ExternalProvisioner, status: int
) -> None:
    peer.script["prepare"] = [Answer(status=status, headers={"Location": "/elsewhere?a=1#b"})]
    peer.script["elsewhere?a=1"] = [Answer(body=RIGHT["prepare"])]

    await external.prepare(FUNCTION)

    first, second = peer.calls
    assert (second.method, second.body) == ("POST", first.body)
    for name in ("authorization", "idempotency-key", "content-type"):
        assert second.headers[name] == first.headers[name]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_takes_a_token_to_another_server(
    peer: HttpPeer, external: ExternalProvisioner, status: int
) -> None:
    with HttpPeer(lambda _: Answer(body=RIGHT["provision"])) as other:
        location = f"http://user:pass@127.0.0.1:{other.port}/provision?token=secret"
        peer.script["provision"] = [Answer(status=status, headers={"Location": location})]

        error = await passing_error_of(external.provision(REQUEST))

        assert other.calls == []
    assert f"(Status code: {status}) to http://127.0.0.1:{other.port}, which is" in str(error)
    assert "redirected" in str(error)
    assert "secret" not in str(error)
    assert "pass" not in str(error)


@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("https://127.0.0.1/x", "https://127.0.0.1,"),
        ("//evil.example\x01/x", "cannot be asked /prepare"),
        ("http://[::1", "cannot be asked /prepare"),
        ("javascript:alert(1)", "cannot be asked /prepare"),
        ("", "redirected"),
    ],
)
async def test_odd_redirects_are_not_followed(
    peer: HttpPeer, external: ExternalProvisioner, location: str, named: str
) -> None:
    headers = {"Location": location} if location else {}
    peer.script["prepare"] = [Answer(status=307, headers=headers)]
    assert named in str(await passing_error_of(external.prepare(FUNCTION)))
    assert len(peer.calls) == 1


async def test_ext_1_endless_redirects_may_pass(
    peer: HttpPeer, external: ExternalProvisioner
) -> None:
    peer.behave = lambda _: Answer(status=307, headers={"Location": "/prepare"})

    assert "redirected" in str(await passing_error_of(external.prepare(FUNCTION)))
    assert len(peer.calls) == 5


@pytest.mark.parametrize(
    ("url", "warns"),
    [
        ("http://provisioner:5001", True),
        ("http://10.0.0.1", True),
        ("https://provisioner", False),
        ("http://localhost:5001", False),
        ("http://127.0.0.9", False),
        ("http://[::1]:5001", False),
    ],
)
async def test_clear_text_is_warned_of(url: str, *, warns: bool) -> None:
    provisioner = provisioner_at(url)
    with capture_logs() as logs:
        await provisioner.start("test", NoBundles())
    await provisioner.close()
    events = [entry["event"] for entry in logs]
    assert events == ["provisioner_is_asked_in_clear_text"] * warns

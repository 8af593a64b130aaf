"""EXT-1, EXT-2: what is asked of an external provisioner, and what its answers mean."""

import asyncio
import json

import pytest
from structlog.testing import capture_logs

from core.settings import SettingsError, load
from provisioners.base import (
    Exited,
    PreparedFunction,
    Running,
    Unknown,
    WorkerRequest,
)
from provisioners.conformance import NoBundles
from provisioners.external.provisioner import ExternalProvisioner
from provisioners.external.settings import ExternalProvisionerSettings
from tests.support.harness import eventually_true
from tests.support.provisioners.external_requests import (
    ASK,
    DETAILS,
    EXECUTION,
    FUNCTION,
    KEY,
    PREPARED,
    REQUEST,
    RIGHT,
    SPEC_SENT,
    VERSION,
    WORKER,
    assert_named,
    final_error_of,
    passing_error_of,
    provisioner_at,
)
from tests.support.provisioners.http_peer import Answer, HttpPeer

# EXT-1: requests, and answers of the right shape.


@pytest.mark.parametrize("status", [200, 201])
async def test_ext_1_prepare(peer: HttpPeer, external: ExternalProvisioner, status: int) -> None:
    answer = RIGHT["prepare"] | {"more": 1}
    peer.script["prepare"] = [Answer(status=status, body=answer)] * 2

    prepared = [await external.prepare(FUNCTION) for _ in range(2)]

    assert prepared == [PreparedFunction(details=PREPARED)] * 2
    first, second = peer.calls
    assert (first.method, first.path) == ("POST", "/prepare")
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert first.headers["content-type"] == "application/json"
    assert first.headers["idempotency-key"].startswith(f"{VERSION}-")
    assert first.headers["idempotency-key"].endswith("-prepare")
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.body == {
        "project_name": "shop",
        "version_id": VERSION,
        "function_name": "räume/auf",
        "docker_image": "image:1",
        "resource_spec": SPEC_SENT,
    }


@pytest.mark.parametrize("status", [200, 201])
async def test_ext_1_provision(peer: HttpPeer, external: ExternalProvisioner, status: int) -> None:
    peer.script["provision"] = [Answer(status=status, body=RIGHT["provision"])]

    worker = await external.provision(REQUEST)

    assert worker == WORKER
    (call,) = peer.calls
    assert call.headers["idempotency-key"] == f"{EXECUTION}-provision"
    assert call.body == {
        "project_name": "shop",
        "version_id": VERSION,
        "function_name": "räume/auf",
        "invocation_id": REQUEST.invocation_id,
        "execution_id": EXECUTION,
        "resource_spec": SPEC_SENT,
        "prepared_function_details": PREPARED,
        "environment": REQUEST.environment,
    }


@pytest.mark.parametrize("status", [200, 201])
async def test_ext_1_terminate_asks_once_and_returns_at_the_end(
    peer: HttpPeer, external: ExternalProvisioner, status: int
) -> None:
    peer.script["terminate"] = [Answer(status=status)]
    peer.script["check_status"] = [
        Answer(status=status, body={"worker_status": seen})
        for seen in ("RUNNING", "PENDING", "PROVISIONING", "TERMINATED")
    ]

    assert isinstance(await external.terminate(EXECUTION, WORKER, grace=0), Exited)

    assert peer.verbs() == ["terminate"] + ["check_status"] * 4
    for call in peer.calls:
        assert call.body == {"worker_details": DETAILS}
        assert call.headers["idempotency-key"] == f"{EXECUTION}-{call.verb}"


@pytest.mark.parametrize(
    ("status", "seen"),
    [
        ("RUNNING", Running),
        ("PENDING", Running),
        ("PROVISIONING", Running),
        ("TERMINATED", Exited),
    ],
)
async def test_ext_1_check_status(
    peer: HttpPeer, external: ExternalProvisioner, status: str, seen: type
) -> None:
    peer.script["check_status"] = [Answer(body={"worker_status": status})]

    assert isinstance(await external.observe(WORKER), seen)

    assert peer.calls[0].body == {"worker_details": DETAILS}


async def test_ext_1_get_logs(peer: HttpPeer, external: ExternalProvisioner) -> None:
    peer.script["get_logs"] = [
        Answer(status=201, body={"log_lines": ["one", "two"], "next_offset": "f/2"}),
        Answer(body={"log_lines": [], "next_offset": "f/2"}),
    ]

    first = await external.read_logs(WORKER, offset="", ended=False)
    second = await external.read_logs(WORKER, offset=first.next_offset, ended=False)

    assert first.lines == ["one", "two"]
    assert (second.lines, second.next_offset) == ([], first.next_offset)
    asked = [(call.body["max_lines"], call.body["initial_offset"]) for call in peer.calls]
    assert asked == [(250, None), (250, "f/2")]
    assert peer.calls[0].body["worker_details"] == DETAILS


@pytest.mark.parametrize("tail", ["", "/", "/some/prefix/", "/a?b=c#d"])
async def test_ext_1_the_path_of_the_url_is_dropped_with_a_warning(
    peer: HttpPeer, tail: str
) -> None:
    peer.script["prepare"] = [Answer(body=RIGHT["prepare"])]
    provisioner = provisioner_at(peer.url + tail)
    with capture_logs() as logs:
        await provisioner.start("test", NoBundles())
    try:
        await provisioner.prepare(FUNCTION)
    finally:
        await provisioner.close()

    assert peer.calls[0].path == "/prepare"
    warned = [entry["event"] for entry in logs] == ["provisioner_url_path_dropped"]
    assert warned is (len(tail) > 1)


# EXT-2: answers that cannot be read.

UNREADABLE = {
    "no JSON": b"<html>hello</html>",
    "nothing": b"",
    "no UTF-8": b'{"detail": "\xff"}',
    "a list": b"[]",
    "null": b"null",
    "deep": b"[" * 100_000,
    "a number too long": b"1" * 5000,
}


@pytest.mark.parametrize("raw", UNREADABLE.values(), ids=list(UNREADABLE))
@pytest.mark.parametrize("verb", ASK)
async def test_ext_2_an_unparsable_answer_names_the_status(
    peer: HttpPeer, external: ExternalProvisioner, verb: str, raw: bytes
) -> None:
    peer.behave = lambda call: Answer(
        raw=raw if call.verb == verb else json.dumps(RIGHT[call.verb]).encode()
    )

    await assert_named(external, verb, "Status code: 200")


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("prepare", {}),
        ("prepare", {"prepared_function_details": {"type": "TEST"}}),
        ("prepare", {"prepared_function_details": {"type": "TEST", "identifier": 1}}),
        ("prepare", {"prepared_function_details": {"type": "TEST", "identifier": "a\0b"}}),
        ("provision", {}),
        ("provision", {"worker_details": None}),
        ("provision", {"worker_details": {"type": "TEST", "identifier": "x"}}),
        ("provision", {"worker_details": {**DETAILS, "logs_identifier": None}}),
        ("provision", {"worker_details": {**DETAILS, "identifier": "\0"}}),
        ("terminate", []),
        ("check_status", {}),
        ("check_status", {"worker_status": "GONE"}),
        ("get_logs", {"next_offset": None}),
        ("get_logs", {"log_lines": "one"}),
        ("get_logs", {"log_lines": [1]}),
        ("get_logs", {"log_lines": [], "next_offset": 3}),
    ],
)
async def test_ext_2_an_answer_of_the_wrong_shape_names_the_status(
    peer: HttpPeer, external: ExternalProvisioner, verb: str, body: object
) -> None:
    peer.behave = lambda call: Answer(body=body if call.verb == verb else RIGHT[call.verb])

    await assert_named(external, verb, "Status code: 200")


async def test_ext_2_a_worker_type_that_clients_do_not_know_is_refused_when_prepared(
    peer: HttpPeer, external: ExternalProvisioner
) -> None:
    details = {"type": "KUBERNETES", "identifier": "p"}
    peer.script["prepare"] = [Answer(body={"prepared_function_details": details})]

    error = await final_error_of(external.prepare(FUNCTION))

    assert "prepared_function_details.type" in str(error)
    assert "'TEST' or 'AWS_ECS'" in str(error)


async def test_ext_2_an_endless_answer_is_not_read_to_its_end(
    peer: HttpPeer, external: ExternalProvisioner
) -> None:
    peer.script["prepare"] = [Answer(raw=b" " * (17 * 2**20))]

    assert "too long" in str(await final_error_of(external.prepare(FUNCTION)))


# Ending and watching.


async def test_terminate_goes_on_where_it_was(
    peer: HttpPeer, external: ExternalProvisioner
) -> None:
    peer.behave = lambda call: Answer(body=RIGHT[call.verb])
    ending = asyncio.create_task(external.terminate(EXECUTION, WORKER, grace=0))
    await eventually_true(lambda: peer.count("check_status") > 1)
    peer.script["check_status"] = [Answer(status=500)]
    assert "Status code: 500" in str(await passing_error_of(ending))

    again = asyncio.create_task(external.terminate(EXECUTION, WORKER, grace=0))
    await eventually_true(lambda: peer.count("check_status") > 5)
    peer.script["check_status"] = [Answer(body={"worker_status": "TERMINATED"})]

    assert isinstance(await again, Exited)
    assert peer.count("terminate") == 1


@pytest.mark.parametrize(
    "refusal",
    [Answer(status=409, body={"detail": "has ended"}), Answer(status=404), Answer(raw=b"")],
)
async def test_terminate_takes_a_refusal_for_an_ended_worker_as_its_end(
    peer: HttpPeer, external: ExternalProvisioner, refusal: Answer
) -> None:
    peer.script["terminate"] = [refusal]
    peer.behave = lambda _: Answer(body={"worker_status": "TERMINATED"})

    assert isinstance(await external.terminate(EXECUTION, WORKER, grace=0), Exited)


async def test_terminate_passes_on_how_long_to_wait(
    peer: HttpPeer, external: ExternalProvisioner
) -> None:
    peer.script["terminate"] = [Answer(status=429, headers={"Retry-After": "9"})]

    error = await passing_error_of(external.terminate(EXECUTION, WORKER, grace=0))

    assert error.retry_after == 9


async def test_wait_returns_at_the_end(peer: HttpPeer, external: ExternalProvisioner) -> None:
    peer.behave = lambda call: Answer(body=RIGHT[call.verb])
    waiting = asyncio.create_task(external.wait(WORKER, timeout=60))
    await eventually_true(lambda: peer.count("check_status") > 2)
    assert not waiting.done()
    peer.script["check_status"] = [Answer(body={"worker_status": "TERMINATED"})]

    assert isinstance(await waiting, Exited)


async def test_wait_asks_more_and_more_rarely_while_it_fails(
    peer: HttpPeer, external: ExternalProvisioner
) -> None:
    """Pauses of 0.5, 1, 2 ... seconds, also over several calls."""
    peer.behave = lambda _: Answer(status=500, body={"detail": "away"})
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() < began + 5:
        seen = await external.wait(WORKER, timeout=0.5)
        assert isinstance(seen, Unknown)
        assert "Status code: 500" in seen.detail

    assert 2 <= peer.count("check_status") <= 5
    peer.behave = lambda _: Answer(body={"worker_status": "TERMINATED"})

    async with asyncio.timeout(60):
        while not isinstance(await external.wait(WORKER, timeout=5), Exited):
            pass


async def test_wait_leaves_the_server_alone_for_as_long_as_it_asks(
    peer: HttpPeer, external: ExternalProvisioner
) -> None:
    peer.behave = lambda _: Answer(status=429, headers={"Retry-After": "600"})

    for _ in range(5):
        assert isinstance(await external.wait(WORKER, timeout=0.2), Unknown)

    assert peer.count("check_status") == 1


async def test_a_function_of_another_provisioner_is_refused(external: ExternalProvisioner) -> None:
    request = WorkerRequest(**{**REQUEST.__dict__, "prepared_details": None})

    assert "Register a new version" in str(await final_error_of(external.provision(request)))


async def test_nothing_can_be_listed(external: ExternalProvisioner) -> None:
    assert await external.list_workers() == []
    await external.forget(EXECUTION)


# Settings.

SETTINGS = {"PROVISIONER_API_URL": "http://localhost:5001", "PROVISIONER_API_KEY": KEY}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize("name", SETTINGS)
def test_a_missing_setting_is_named(settings: pytest.MonkeyPatch, name: str) -> None:
    settings.delenv(name)

    with pytest.raises(SettingsError) as caught:
        ExternalProvisioner.from_environment()

    assert str(caught.value) == f"Environment variable {name} not found"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROVISIONER_API_URL", "localhost:5001"),
        ("PROVISIONER_API_URL", "http://"),
        ("PROVISIONER_API_URL", "http://host:port"),
        ("PROVISIONER_API_URL", "http://me:hunter2@host"),
        ("PROVISIONER_API_KEY", "hunter2 hunter2"),
        ("PROVISIONER_API_KEY", "hunter2\n"),
        ("PROVISIONER_API_KEY", "hünter2"),
        ("PROVISIONER_TIMEOUT_SECONDS", "0"),
        ("PROVISIONER_POLL_SECONDS", "0"),
        ("PROVISIONER_LOG_LIMIT_MB", "hunter2"),
    ],
)
def test_a_wrong_setting_is_named_without_its_value(
    settings: pytest.MonkeyPatch, name: str, value: str
) -> None:
    settings.setenv(name, value)

    with pytest.raises(SettingsError) as caught:
        ExternalProvisioner.from_environment()

    assert str(caught.value).startswith(f"Environment variable {name} is invalid: ")
    assert "hunter2" not in str(caught.value)


@pytest.mark.usefixtures("settings")
def test_settings_have_defaults() -> None:
    found = load(ExternalProvisionerSettings)
    assert found.provisioner_timeout_seconds == 30
    assert found.provisioner_poll_seconds == 1
    assert found.provisioner_log_patience_seconds == 60
    assert found.provisioner_log_limit_mb == 16

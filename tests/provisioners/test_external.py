"""EXT-1, EXT-2, EXT-3: what is asked of an external provisioner, and what its answers mean."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from core.clock import utc_now
from core.ids import InvocationId, VersionId
from core.settings import ExternalProvisionerSettings, SettingsError, load
from provisioners.base import (
    Exited,
    FunctionToPrepare,
    Prepared,
    ProvisionerError,
    ResourceSpec,
    Running,
    Unknown,
    UnrecoverableProvisioningError,
    WorkerRecord,
    WorkerRequest,
)
from provisioners.external import ExternalProvisioner, ExternalProvisionerConfig
from provisioners.external_client import ExternalClient
from standalone.ports import free_port
from tests.harness import eventually_true
from tests.provisioners.conformance import new_execution_id
from tests.provisioners.http_peer import Answer, HttpPeer

KEY = "lemonandherb"
TOKEN = "exe-1.secret-of-this-execution"
VERSION = VersionId("ver-" + "0" * 32)
EXECUTION = new_execution_id()
SPEC = ResourceSpec(virtual_cpus=0.5, memory_gbs=0.25, max_concurrency=7)
DETAILS = {"type": "TEST", "identifier": "w-1", "logs_identifier": "l-1"}
PREPARED = {"type": "TEST", "identifier": "p-1"}
WORKER = WorkerRecord(execution_id=EXECUTION, state={"id": "w-1"}, details=DETAILS)
FUNCTION = FunctionToPrepare(
    project_name="shop",
    version_id=VERSION,
    function_name="räume/auf",
    docker_image="image:1",
    resource_spec=SPEC,
)
REQUEST = WorkerRequest(
    project_name="shop",
    version_id=VERSION,
    function_name="räume/auf",
    invocation_id=InvocationId("inv-" + "0" * 32),
    execution_id=EXECUTION,
    attempt=1,
    docker_image="image:1",
    resource_spec=SPEC,
    prepared_details=PREPARED,
    environment={"CONTROL_PLANE_API_KEY": TOKEN, "CONTROL_PLANE_PROJECT_NAME": "shop"},
)
SPEC_SENT = {"virtual_cpus": 0.5, "memory_gbs": 0.25, "max_concurrency": 7}
RIGHT: dict[str, Any] = {
    "prepare": {"prepared_function_details": PREPARED},
    "provision": {"worker_details": DETAILS},
    "terminate": {},
    "check_status": {"worker_status": "RUNNING"},
    "get_logs": {"log_lines": ["one"], "next_offset": "1"},
}

Ask = Callable[[ExternalProvisioner], Awaitable[object]]
ASK: dict[str, Ask] = {
    "prepare": lambda p: p.prepare(FUNCTION),
    "provision": lambda p: p.provision(REQUEST),
    "terminate": lambda p: p.terminate(EXECUTION, WORKER, grace=1),
    "check_status": lambda p: p.observe(WORKER),
    "get_logs": lambda p: p.read_logs(WORKER, offset="", ended=False),
}
MAKING = ["prepare", "provision"]


@pytest.fixture
def peer() -> Iterator[HttpPeer]:
    with HttpPeer() as peer:
        yield peer


def provisioner_at(url: str, *, timeout: float = 20, **config: Any) -> ExternalProvisioner:
    client = ExternalClient(url, SecretStr(KEY), timeout=timeout)
    return ExternalProvisioner(
        client, ExternalProvisionerConfig(**{"poll_seconds": 0.05, **config})
    )


@pytest.fixture
async def external(peer: HttpPeer) -> AsyncIterator[ExternalProvisioner]:
    provisioner = provisioner_at(peer.url, log_patience_seconds=0.2)
    await provisioner.start("test")
    yield provisioner
    await provisioner.close()


async def error_of(asked: Awaitable[object]) -> ProvisionerError:
    with pytest.raises(ProvisionerError) as caught:
        await asked
    assert KEY not in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert len(str(caught.value)) < 800
    assert "\n" not in str(caught.value)
    return caught.value


async def final_error_of(asked: Awaitable[object]) -> UnrecoverableProvisioningError:
    error = await error_of(asked)
    assert isinstance(error, UnrecoverableProvisioningError)
    return error


async def passing_error_of(asked: Awaitable[object]) -> ProvisionerError:
    error = await error_of(asked)
    assert not isinstance(error, UnrecoverableProvisioningError)
    return error


# EXT-1: requests, and answers of the right shape.


@pytest.mark.parametrize("status", [200, 201])
async def test_ext_1_prepare(peer: HttpPeer, external: ExternalProvisioner, status: int) -> None:
    answer = RIGHT["prepare"] | {"more": 1}
    peer.script["prepare"] = [Answer(status=status, body=answer)] * 2

    prepared = [await external.prepare(FUNCTION) for _ in range(2)]

    assert prepared == [Prepared(details=PREPARED)] * 2
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
        await provisioner.start("test")
    try:
        await provisioner.prepare(FUNCTION)
    finally:
        await provisioner.close()

    assert peer.calls[0].path == "/prepare"
    warned = [entry["event"] for entry in logs] == ["provisioner_url_path_dropped"]
    assert warned is (len(tail) > 1)


@pytest.mark.parametrize("status", [307, 308])
async def test_ext_1_redirects_are_followed(
    peer: HttpPeer, external: ExternalProvisioner, status: int
) -> None:
    there = {"Location": f"{peer.url}/elsewhere"}
    peer.script["prepare"] = [Answer(status=status, headers=there)]
    peer.script["elsewhere"] = [Answer(body=RIGHT["prepare"])]

    await external.prepare(FUNCTION)

    first, second = peer.calls
    assert (second.method, second.body) == ("POST", first.body)
    assert second.headers["authorization"] == f"Bearer {KEY}"


async def test_ext_1_a_redirect_that_turns_post_into_get_is_named(
    peer: HttpPeer, external: ExternalProvisioner
) -> None:
    peer.script["prepare"] = [Answer(status=302, headers={"Location": "/elsewhere"})]
    peer.script["elsewhere"] = [Answer(status=405, body={"detail": "Method Not Allowed"})]

    error = await final_error_of(external.prepare(FUNCTION))

    assert "redirected, and so asked with GET" in str(error)
    assert "Status code: 405" in str(error)


async def test_ext_1_endless_redirects_may_pass(
    peer: HttpPeer, external: ExternalProvisioner
) -> None:
    peer.behave = lambda _: Answer(status=307, headers={"Location": "/prepare"})

    assert "TooManyRedirects" in str(await passing_error_of(external.prepare(FUNCTION)))


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


async def assert_named(external: ExternalProvisioner, verb: str, text: str) -> None:
    """Each call fails in its own way, and its text holds this one."""
    match verb:
        case "prepare" | "provision":
            assert text in str(await error_of(ASK[verb](external)))
        case "terminate":
            assert text in str(await passing_error_of(ASK[verb](external)))
        case "check_status":
            seen = await external.observe(WORKER)
            assert isinstance(seen, Unknown)
            assert text in seen.detail
        case "get_logs":
            page = await external.read_logs(WORKER, offset="", ended=True)
            assert len(page.lines) == 1
            assert page.lines[0].startswith("[control-plane: logs could not be read: ")
            assert text in page.lines[0]


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
    await provisioner.start("test")
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
    await provisioner.start("test")
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

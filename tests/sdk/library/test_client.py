"""`Client` and `AsyncClient`: what they send, how often, and what they make of the answers."""

import asyncio
import inspect
import json
import re
import threading
from pathlib import Path

import pytest
from control_plane._call.invocation import result_of
from control_plane._http.async_client import AsyncClient
from control_plane._http.client import Client
from control_plane.errors import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    ControlPlaneError,
    InvocationFailedError,
    NotFoundError,
    ServerConnectionError,
    ServerUnavailableError,
    WaitTimeoutError,
)
from control_plane.models import InvocationInfo, InvocationPath
from control_plane.runner.failure import describe

from tests.support.harness import function_spec
from tests.support.ports import free_port
from tests.support.sdk.gateway import INVOCATION, Gateway, Scripted
from tests.support.stack.stack import API_KEY, PROJECT, Stack

PATH = InvocationPath(
    project_name="p", version_id="ver-1", function_name="f", invocation_id="inv-1"
)


async def test_no_redirect_takes_the_key_to_another_server(transport: str) -> None:
    del transport
    with Gateway(Scripted(body={"projects": []})) as other:
        there = Scripted(status=307, headers={"Location": f"{other.url}/projects"})
        with Gateway(there) as gateway, Client(gateway.url, "key") as client:
            with pytest.raises(ApiError, match="redirects elsewhere"):
                client.list_projects()
            async with AsyncClient(gateway.url, "key") as async_client:
                with pytest.raises(ApiError, match="redirects elsewhere"):
                    await async_client.get_project("p")
            assert len(gateway.seen) == 2
        assert other.seen == []


def test_life_of_a_project(stack: Stack, transport: str, tmp_path: Path) -> None:
    gate, name = tmp_path / "gate", f"life with {transport}"
    client = Client(stack.caller.url, API_KEY)
    created = client.create_project(name)
    assert client.get_project(name) == created
    assert created in client.list_projects()
    with pytest.raises(ConflictError, match=r"already exists\. \(409 to PUT /projects/life%20"):
        client.create_project(name)

    version = client.create_version(
        name,
        {
            "default_docker_image": PROJECT.as_uri(),
            "functions": [function_spec("talk"), function_spec("greet")],
        },
    )
    assert [each.function_name for each in version.functions] == ["talk", "greet"]
    assert version.functions[0].resource_spec.memory_gbs == 0.25
    assert client.get_version(name).version_id == version.version_id
    assert [each.version_id for each in client.list_versions(name)] == [version.version_id]

    call = client.create_invocation(name, "talk", input_text=f'"{gate}"', idempotency_key="a b")
    again = client.create_invocation(name, "talk", input_text=f'"{gate}"', idempotency_key="a b")
    assert again.path == call.path
    with pytest.raises(BadRequestError, match=r"header\.Idempotency-Key: The key was used"):
        client.create_invocation(name, "talk", input_text="1", idempotency_key="a b")

    with pytest.raises(WaitTimeoutError, match=r"has not ended within 0\.1 seconds; it is"):
        client.wait_for_invocation(call.path, timeout=0.1)
    gate.touch()
    ended = client.wait_for_invocation(call.path, timeout=60)
    (execution,) = ended.executions
    assert (ended.phase, execution.outcome, execution.attempt) == ("SUCCEEDED", "SUCCEEDED", 1)
    lines = list(client.iterate_logs(call.path, execution.execution_id))
    assert lines == ["before the gate", "after the gate"]
    assert client.get_logs(call.path, execution.execution_id, max_lines=1).next_offset == "1"
    with pytest.raises(ConflictError, match="already terminated"):
        client.cancel_invocation(call.path)

    others = {
        client.create_invocation(name, "greet", input_text='"Ada"').invocation_id for _ in range(3)
    }
    listed = client.iterate_invocations(name, "greet")
    assert {each.invocation_id for each in listed} == others
    page = client.list_invocations(name, "greet", max_results=2)
    assert len(page.invocations) == 2
    assert page.next_offset is not None
    rest = client.list_invocations(name, "greet", offset=page.next_offset)
    assert len(rest.invocations) == 1

    assert client.delete_project(name).deletion_request_time is not None
    client.close()


def test_lines_are_followed_to_the_end(client: Client, stack: Stack, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    stack.caller.deploy(PROJECT, function_spec("talk"), project="following")
    call = client.create_invocation("following", "talk", input_text=f'"{gate}"')
    while not (info := client.get_invocation(call.path)).executions:
        pass
    lines = client.iterate_logs(call.path, info.executions[0].execution_id, follow=True)
    assert next(lines) == "before the gate"
    gate.touch()
    assert list(lines) == ["after the gate"]


async def test_a_closed_client_leaves_no_thread_that_waits(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("control_plane._http.transports.find_httpx", lambda: None)
    stack.caller.deploy(PROJECT, function_spec("talk"), project="closing")
    before = set(threading.enumerate())
    async with AsyncClient(stack.caller.url, API_KEY) as client:
        call = await client.create_invocation(
            "closing", "talk", input_text=json.dumps(str(tmp_path / "gate"))
        )
        waiting = asyncio.create_task(client.wait_for_invocation(call.path, timeout=60))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting, 1)
    for thread in set(threading.enumerate()) - before:
        # Its request would have been answered after 20 s.
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive(), thread


def test_async_client_shows_the_arguments_of_its_methods() -> None:
    for name, method in vars(Client).items():
        if not name.startswith("_"):
            shown = str(inspect.signature(getattr(AsyncClient, name)))
            assert shown.replace("AsyncIterator", "Iterator") == str(inspect.signature(method))


async def test_async_client_has_the_same_methods(stack: Stack, transport: str) -> None:
    name = f"async with {transport}"
    methods = {name for name in vars(Client) if not name.startswith("_")}
    assert {name for name in vars(AsyncClient) if not name.startswith("_")} == methods

    async with AsyncClient(stack.caller.url, API_KEY) as client:
        assert await client.health() == {"status": "healthy"}
        await client.create_project(name)
        await client.create_version(
            name,
            {"default_docker_image": PROJECT.as_uri(), "functions": [function_spec("talk")]},
        )
        call = await client.create_invocation(name, "talk", input_text='"/"')
        ended = await client.wait_for_invocation(call.path, timeout=60)
        (execution,) = ended.executions
        lines = [line async for line in client.iterate_logs(call.path, execution.execution_id)]
        assert lines == ["before the gate", "after the gate"]
        found = [each async for each in client.iterate_invocations(name, "talk")]
        assert [each.invocation_id for each in found] == [call.invocation_id]


def test_refusals_are_told_apart(client: Client, stack: Stack) -> None:
    with pytest.raises(NotFoundError, match="project with this name does not exist") as caught:
        client.get_project("nowhere")
    assert caught.value.status == 404
    assert caught.value.detail == "A project with this name does not exist"
    assert caught.value.request_id
    with Client(stack.caller.url, "wrong") as stranger, pytest.raises(AuthenticationError):
        stranger.list_projects()
    with pytest.raises(BadRequestError, match=r"body\.functions: Field required"):
        client.create_version("nowhere", {"default_docker_image": "x"})


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("trouble", [Scripted(drop=True), Scripted(status=503)])
def test_call_is_repeated_with_one_key_until_it_is_answered(trouble: Scripted) -> None:
    with (
        Gateway(trouble, trouble, Scripted(body=INVOCATION)) as gateway,
        Client(gateway.url, "key") as client,
    ):
        assert client.create_invocation("p q", "a:b", input_text="[]").phase == "QUEUED"
        client.create_invocation("p q", "a:b", input_text="[]")
    keys = [seen.headers["idempotency-key"] for seen in gateway.seen]
    assert len(keys) == 4
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert {seen.path for seen in gateway.seen} == {
        "/projects/p%20q/versions/latest/functions/a%3Ab/invocations"
    }
    assert all(seen.headers["authorization"] == "Bearer key" for seen in gateway.seen)
    assert all(seen.body == {"input": "[]"} for seen in gateway.seen)


async def test_async_call_is_repeated_too(transport: str) -> None:
    del transport
    with Gateway(Scripted(drop=True), Scripted(body=INVOCATION)) as gateway:
        async with AsyncClient(gateway.url, "key") as client:
            await client.create_invocation("p", "f", input_text="[]")
    assert len({seen.headers["idempotency-key"] for seen in gateway.seen}) == 1
    assert len(gateway.seen) == 2


@pytest.mark.usefixtures("transport")
def test_version_is_not_registered_again_when_nobody_knows() -> None:
    with (
        Gateway(Scripted(drop=True)) as gateway,
        Client(gateway.url, "key") as client,
        pytest.raises(ServerConnectionError, match="it is unknown whether POST /projects/p/vers"),
    ):
        client.create_version("p", {})
    assert len(gateway.seen) == 1


def test_cancel_whose_answer_was_lost_is_no_conflict() -> None:
    with (
        Gateway(Scripted(drop=True), Scripted(status=409), Scripted(body=INVOCATION)) as gateway,
        Client(gateway.url, "key") as client,
    ):
        assert client.cancel_invocation(PATH).invocation_id == "inv-1"
    assert [seen.method for seen in gateway.seen] == ["PUT", "PUT", "GET"]


def test_server_that_stays_unavailable_is_given_up_and_its_wish_for_a_pause_is_kept() -> None:
    busy = Scripted(status=503, body={"detail": "busy"}, headers={"Retry-After": "30"})
    with (
        Gateway(busy) as gateway,
        Client(gateway.url, "key", patience=20) as client,
        pytest.raises(ServerUnavailableError, match=r"busy \(503 to GET /projects\)"),
    ):
        client.list_projects()
    assert len(gateway.seen) == 1


def test_server_that_is_not_there_is_an_error_of_this_library() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with (
        Client(url, "key", patience=0.2) as client,
        pytest.raises(ServerConnectionError, match=f"{re.escape(url)} does not answer"),
    ):
        client.list_projects()
    assert issubclass(ServerConnectionError, ControlPlaneError)
    assert issubclass(ServerConnectionError, ConnectionError)


@pytest.mark.parametrize("body", [b"<html>", [], {"projects": [{}]}])
def test_answer_of_something_else_is_said_to_be_that(body: object) -> None:
    with (
        Gateway(Scripted(body=body)) as gateway,
        Client(gateway.url, "key") as client,
        pytest.raises(ApiError, match="Is this the address of a control plane"),
    ):
        client.list_projects()


def test_answers_of_newer_servers_are_read() -> None:
    news = {**INVOCATION, "phase": "NEW", "surprise": 1}
    with Gateway(Scripted(body=news)) as gateway, Client(gateway.url, "key") as client:
        info = client.get_invocation(PATH)
    assert info.phase == "NEW"
    assert info.raw["surprise"] == 1


async def test_async_wait_can_be_given_up(stack: Stack, tmp_path: Path) -> None:
    stack.caller.deploy(PROJECT, function_spec("talk"), project="impatient")
    gate = tmp_path / "gate"
    async with AsyncClient(stack.caller.url, API_KEY) as client:
        call = await client.create_invocation("impatient", "talk", input_text=f'"{gate}"')
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.wait_for_invocation(call.path)
        gate.touch()
        assert (await client.wait_for_invocation(call.path, timeout=60)).phase == "SUCCEEDED"


@pytest.mark.parametrize(
    ("code", "headline", "traceback"),
    [
        (
            "raise ValueError('a\\n\\nb')",
            "ValueError: a\n\nb",
            "Traceback (most recent call last):\n",
        ),
        (
            "raise ExceptionGroup('several', [KeyError('x')])",
            "ExceptionGroup: several (1 sub-exception)",
            "  + Exception Group Traceback (most recent call last):\n",
        ),
        ("def f(:", "SyntaxError: invalid syntax (main.py, line 1)", '  File "main.py", line 1\n'),
    ],
)
def test_error_of_a_function_is_told_from_its_traceback(
    code: str, headline: str, traceback: str
) -> None:
    """Of any shape that Python gives it."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 - any
        exec(compile(code, "main.py", "exec"))  # noqa: S102 - ours
    error = raised.value
    if isinstance(error, SyntaxError):
        # The frames above it are the runner's.
        error.__traceback__ = None
    execution = {
        "execution_id": "exe-1",
        "worker_status": "TERMINATED",
        "creation_time": 1,
        "last_update_time": 2,
        "error_message": describe(error, project_folder="/nowhere"),
    }
    ended = {"invocation_status": "TERMINATED", "phase": "FAILED", "executions": [execution]}
    with pytest.raises(InvocationFailedError) as caught:
        result_of(InvocationInfo.read({**INVOCATION, **ended}))
    assert caught.value.error == headline
    assert caught.value.remote_traceback.startswith(traceback)


async def test_certificates_are_read_for_https_only(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "is-not-there"))
    with Client(stack.caller.url, API_KEY) as client:
        client.list_projects()
    async with AsyncClient(stack.caller.url, API_KEY) as client_async:
        await client_async.list_projects()

    with pytest.raises(FileNotFoundError):
        Client("https://127.0.0.1:1", API_KEY).list_projects()

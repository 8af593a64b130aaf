"""Paths, headers, sizes, and answers to what goes wrong inside."""

import socket
from collections.abc import AsyncIterator

import pytest
import structlog
from fastapi import FastAPI

from api.http.middleware import MAX_BODY_BYTES
from api.http.server import bind
from tests.support.api import USER, Api, assert_error
from tests.support.harness import API_KEY


async def test_health_needs_no_key(api: Api) -> None:
    assert await api.ok("GET", "/", headers={}) == {"status": "healthy"}


async def test_an_unknown_path_is_404_as_json(api: Api) -> None:
    assert_error(await api.get("/nothing", headers={}), 404, "Not Found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("HEAD", "/", "GET"),
        ("POST", "/", "GET"),
        ("PATCH", "/projects/shop", "DELETE, GET, PUT"),
        ("DELETE", "/projects", "GET"),
        ("PUT", "/projects/p/versions/v/functions/f/invocations", "GET, POST"),
    ],
)
async def test_an_unknown_method_is_405_with_allow(
    api: Api, method: str, path: str, allowed: str
) -> None:
    answer = await api.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed
    if method != "HEAD":
        assert answer.json() == {"detail": "Method Not Allowed"}


async def test_slashes_too_many_are_tolerated(api: Api, function: str) -> None:
    for path in ("//projects", "/projects/", "///projects//"):
        assert (await api.ok("GET", f"http://control-plane{path}"))["projects"]
    await api.ok("GET", f"http://control-plane/{function}//invocations/?max_results=1")
    await api.ok("GET", "http://control-plane//", headers={})


async def test_an_encoded_slash_is_a_part_of_a_name(api: Api) -> None:
    await api.ok("PUT", "/projects/shop")
    for path in ("/projects/shop%2F", "/projects/%2Fshop", "/projects/shop%2Fversions"):
        # Such names can not be addressed; above all they address nothing else.
        assert_error(await api.get(path), 404, "Not Found")


@pytest.mark.parametrize(
    "content_type",
    [None, "application/x-www-form-urlencoded", "text/plain", "multipart/form-data", "nonsense"],
)
async def test_a_body_is_json_whatever_it_says(
    api: Api, function: str, content_type: str | None
) -> None:
    headers = USER if content_type is None else {**USER, "Content-Type": content_type}
    body = b'{"input": "x", "unknown": "ignored"}'
    answer = await api.ok("POST", f"{function}/invocations", content=body, headers=headers)
    assert answer["input"] == "x"


async def test_a_request_id_is_given_kept_and_logged(api: Api) -> None:
    made = (await api.get("/projects")).headers["x-request-id"]
    assert len(made) == 32
    kept = await api.get("/projects", headers={**USER, "X-Request-ID": "abc-1.2:3"})
    assert kept.headers["x-request-id"] == "abc-1.2:3"
    for odd in ("a b", "x" * 129, "<script>", ""):
        changed = await api.get("/projects", headers={**USER, "X-Request-ID": odd})
        assert len(changed.headers["x-request-id"]) == 32
    assert "request_id" not in structlog.contextvars.get_contextvars()


async def _chunks(total: int) -> AsyncIterator[bytes]:
    yield b'{"input": "'
    sent = 0
    while sent < total:
        yield b"x" * 65_536
        sent += 65_536
    yield b'"}'


async def test_a_body_over_4_mib_is_413_with_and_without_a_length(api: Api, function: str) -> None:
    path = f"{function}/invocations"
    detail = "The request body is too large: at most 4194304 bytes (4 MiB) are accepted"
    assert_error(await api.post(path, content=b"x" * (MAX_BODY_BYTES + 1)), 413, detail)
    assert_error(await api.post(path, content=_chunks(MAX_BODY_BYTES)), 413, detail)
    # Authentication still comes first.
    answer = await api.post(path, content=b"x" * (MAX_BODY_BYTES + 1), headers={})
    assert_error(answer, 403, "Not authenticated")
    # Up to the limit, the body is read and judged.
    almost = await api.post(path, content=b"x" * MAX_BODY_BYTES)
    assert almost.status_code == 422


async def test_an_unhandled_error_says_only_its_request_id_and_is_logged(
    api: Api, app: FastAPI
) -> None:
    async def fail() -> None:
        raise RuntimeError("the secret is swordfish")

    app.add_api_route("/fail", fail)
    with structlog.testing.capture_logs() as logs:
        answer = await api.get("/fail", headers={"X-Request-ID": "r-1"})
    assert answer.status_code == 500
    assert answer.json() == {"detail": "Internal Server Error", "request_id": "r-1"}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "r-1"
    [entry] = [entry for entry in logs if entry["event"] == "unhandled_error"]
    assert entry["exc_info"]


async def test_a_refusal_is_logged_with_its_reason_and_without_a_traceback(api: Api) -> None:
    with structlog.testing.capture_logs() as logs:
        await api.get("/projects/none")
        await api.get("/projects", headers={})
    first, second = [entry for entry in logs if entry["event"] == "request_refused"]
    assert first == {
        "event": "request_refused",
        "log_level": "info",
        "reason": "project_missing",
        "status": 404,
        "method": "GET",
        "path": "/projects/none",
    }
    assert (second["reason"], second["status"]) == ("not_authenticated", 403)


async def test_the_context_shows_no_secret(app: FastAPI) -> None:
    shown = repr(app.state.context)
    assert API_KEY not in shown
    assert "tokens" not in shown


async def test_the_key_never_shows_in_an_answer(api: Api) -> None:
    for path in ("/", "/openapi.json", "/projects", "/nothing"):
        assert API_KEY not in (await api.get(path)).text


def test_an_answer_does_not_wait_until_its_head_is_acknowledged() -> None:
    with (
        bind("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        listener.setblocking(True)
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

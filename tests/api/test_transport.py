"""Paths, headers, sizes, and answers to what goes wrong inside."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import httpx
import psycopg
import pytest
import structlog
from fastapi import FastAPI
from sqlalchemy import text

from api.middleware import MAX_BODY_BYTES
from core.dispatch import Dispatcher
from core.settings import RegistrySettings, TemporalSettings
from core.temporal import connect
from registry.engine import Registry
from tests.api.helpers import USER, Api, assert_error
from tests.harness import API_KEY, STANDARD

AWAY = (503, "The registry is not available at the moment. Please try again")


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
    detail = "The request body is too large"
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


async def test_a_database_without_tables_is_no_503(api: Api) -> None:
    async with api.registry.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE projects RENAME TO away"))
    with structlog.testing.capture_logs():
        answer = await api.get("/projects")
    assert answer.status_code == 500
    assert answer.json()["detail"] == "Internal Server Error"


async def test_a_lost_connection_is_503_once_and_then_all_is_well(
    api: Api, registry_settings: RegistrySettings
) -> None:
    await api.ok("GET", "/projects")
    await asyncio.to_thread(_end_connections, registry_settings)
    answer = await api.get("/projects")
    assert_error(answer, *AWAY)
    assert answer.headers["retry-after"] == "1"
    await api.ok("GET", "/projects")


def _end_connections(settings: RegistrySettings) -> None:
    with psycopg.connect(
        host=settings.postgres_host,
        port=settings.postgres_port,
        user=settings.postgres_user,
        password=settings.postgres_password.get_secret_value(),
        dbname="postgres",
        autocommit=True,
    ) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [settings.postgres_db],
        )


@pytest.fixture
async def registry_away(registry_settings: RegistrySettings) -> AsyncIterator[Registry]:
    nowhere = registry_settings.model_copy(
        update={"postgres_host": "127.0.0.1", "postgres_port": 1}
    )
    registry = Registry(nowhere)
    yield registry
    await registry.close()


async def test_a_registry_that_does_not_answer_is_503(
    app: FastAPI, api: Api, registry_away: Registry
) -> None:
    app.state.context = dataclasses.replace(app.state.context, registry=registry_away)
    assert_error(await api.get("/projects"), *AWAY)
    assert_error(await api.get("/projects", headers={}), 403, "Not authenticated")
    assert await api.ok("GET", "/") == {"status": "healthy"}


async def test_a_pool_that_is_used_up_is_503(
    app: FastAPI, api: Api, registry_settings: RegistrySettings
) -> None:
    small = Registry(registry_settings.model_copy(update={"postgres_pool_size": 1}))
    app.state.context = dataclasses.replace(app.state.context, registry=small)
    async with small.transaction() as session:
        await session.execute(text("SELECT 1"))
        assert_error(await api.get("/projects"), *AWAY)
    await api.ok("GET", "/projects")
    await small.close()


async def test_an_invocation_is_accepted_while_temporal_is_away(
    app: FastAPI, registry: Registry
) -> None:
    nowhere = await connect(TemporalSettings(temporal_address="127.0.0.1:1"), lazy=True)
    away = Dispatcher(nowhere, task_queue="t", provisioner="dev")
    app.state.context = dataclasses.replace(app.state.context, dispatcher=away)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://c") as http:
        api = Api(http, registry)
        invocation = await api.invoke(f"{await api.deploy(STANDARD)}/functions/standard")
        await api.ok("PUT", f"{invocation}/cancel")
        assert (await api.ok("GET", invocation))["cancellation_requested"] is True


async def test_the_key_never_shows_in_an_answer(api: Api) -> None:
    for path in ("/", "/openapi.json", "/projects", "/nothing"):
        assert API_KEY not in (await api.get(path)).text

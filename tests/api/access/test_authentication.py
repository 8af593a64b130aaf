"""Who sends a request: rule AUT-1, the texts of the refusals, and what needs no key."""

import re

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from api.access.authentication import (
    AuthenticatedRoute,
    Principal,
    PublicRoute,
    Root,
    Worker,
    authenticate,
)
from core.errors import ApiKeyIsInvalidError
from core.ids import ExecutionId
from registry.database.engine import Registry
from registry.queries.token_secret import WorkerTokens
from tests.support.api import Api, assert_error
from tests.support.harness import API_KEY, API_KEYS, TOKENS

OTHER_EXECUTION = ExecutionId(f"exe-{'0' * 32}")


async def test_aut_1_the_key_is_root_and_another_one_is_invalid(registry: Registry) -> None:
    tokens = WorkerTokens(registry, API_KEYS)
    keys = (API_KEY, "another-key-that-was-good-before")

    async def seen(credential: str) -> Principal:
        return await authenticate(f"Bearer {credential}", api_keys=keys, tokens=tokens)

    for key in keys:
        assert await seen(key) == Root()
        with pytest.raises(ApiKeyIsInvalidError):
            await seen(f"{key}x")
    assert Root().user == "root"
    assert await seen(TOKENS.derive(OTHER_EXECUTION)) == Worker(OTHER_EXECUTION)


@pytest.mark.parametrize(
    ("header", "detail"),
    [
        (None, "Not authenticated"),
        ("", "Not authenticated"),
        ("Bearer", "Not authenticated"),
        ("Bearer ", "Not authenticated"),
        ("Basic", "Not authenticated"),
        ("Basic abc", "Invalid authentication credentials"),
        (f"Token {API_KEY}", "Invalid authentication credentials"),
        ("Bearer wrong", "The API key is invalid"),
        ("Bearer caf\u00e9", "The API key is invalid"),
        (f"Bearer {API_KEY} x", "The API key is invalid"),
        (f"Bearer {OTHER_EXECUTION}.{'0' * 64}", "The API key is invalid"),
    ],
)
async def test_refusals_have_their_exact_texts(api: Api, header: str | None, detail: str) -> None:
    headers = [] if header is None else [(b"Authorization", header.encode("latin-1"))]
    answer = await api.http.get("/projects", headers=headers)
    assert_error(answer, 403, detail)
    assert "www-authenticate" not in answer.headers


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_case_insensitive(api: Api, scheme: str) -> None:
    await api.ok("GET", "/projects", headers={"Authorization": f"{scheme} {API_KEY}"})


@pytest.mark.parametrize("body", [b"{", b'{"functions": 1}', b"\xff", b""])
async def test_authentication_is_judged_before_the_body(api: Api, body: bytes) -> None:
    wrong = {"Authorization": "Bearer wrong"}
    answer = await api.post("/projects/none/versions", content=body, headers=wrong)
    assert_error(answer, 403, "The API key is invalid")
    assert (await api.post("/projects/none/versions", content=body)).status_code == 422


def _routes(app: FastAPI) -> list[tuple[str, str, APIRoute | None]]:
    found = []
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        for method in sorted(context.methods or ()):
            known = route if isinstance(route, APIRoute) else None
            found.append((method, context.path or "", known))
    return found


async def test_every_route_needs_a_key_unless_it_is_marked_as_public(
    api: Api, app: FastAPI
) -> None:
    # FastAPI's own, which cannot be marked.
    documents = {app.openapi_url}
    paths, public = set(), set()
    for method, path, route in _routes(app):
        paths.add(path)
        concrete = re.sub(r"\{[a-z_]+\}", "x", path)
        answer = await api.request(method, concrete, headers={})
        if isinstance(route, PublicRoute) or path in documents:
            assert answer.status_code == 200, path
            public.add(path)
        else:
            assert isinstance(route, AuthenticatedRoute), path
            assert_error(answer, 403, "Not authenticated")
    assert public == {"/", "/docs", "/docs/style.css", "/redoc", "/openapi.json"}
    assert len(paths) == 24

"""Serves the web UI of a Temporal that is closed, to browsers that have logged in."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from api.http.server import serve
from standalone.temporal.ui_login import LOGIN_PATH, UiLogin

_COOKIE: Final = "control_plane_temporal"
_CSRF_COOKIE: Final = "_csrf"
"""Temporal's UI compares it with a header of each request that changes something."""
_MOST_BODY_BYTES: Final = 4 * 1024 * 1024
"""Temporal itself takes no larger message."""
_MOST_CONNECTIONS: Final = 200
_METHODS: Final = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

# RFC 9110, 7.6.1: they are about one connection.
_CONNECTION_HEADERS: Final = frozenset(
    (
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
# The UI's pages have scripts and styles in them. Nothing is loaded from another host, and no page
# shows ours in a frame.
_HEADERS: Final = (
    (
        "content-security-policy",
        "; ".join(
            (
                "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:",
                *(f"{name} 'self'" for name in ("base-uri", "form-action")),
                *(f"{name} 'none'" for name in ("frame-ancestors", "object-src")),
            )
        ),
    ),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
)
_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Temporal's web UI</title>
<body style="font: 16px/1.5 sans-serif; max-width: 40em; margin: 4em auto; padding: 0 1em">
<h1 style="font-size: 1.3em">{title}</h1>
<p>{text}</p>
</body></html>
"""
_HOW_TO_LOG_IN: Final = (
    "Run <code>control-plane ui</code>, or <code>control-plane open INVOCATION_ID</code> for the "
    "page of a call, and open the link that it prints. A link works once, for five minutes."
)

_HOW_TO_GO_ON: Final = "If it was you who followed a link, open its address in a new tab."


@asynccontextmanager
async def serving_ui(
    listener: socket.socket, login: UiLogin, temporal: httpx.AsyncClient
) -> AsyncIterator[asyncio.Task[None]]:
    """Serve the UI during the block; gives the task that serves.

    Args:
        listener: from `api.http.server.bind`; the caller closes it.
        login: says who may see it.
        temporal: a client of the UI that is to be served; closed at the end.
    """
    stop = asyncio.Event()
    async with temporal:
        serving = asyncio.create_task(
            serve(
                ui_app(login, temporal),
                listener=listener,
                stop=stop,
                max_connections=_MOST_CONNECTIONS,
                headers=_HEADERS,
            )
        )
        try:
            yield serving
        finally:
            stop.set()
            await serving


def ui_app(login: UiLogin, temporal: httpx.AsyncClient) -> Starlette:
    """Make the application that hands requests on to Temporal's UI.

    Args:
        login: says who may see it.
        temporal: a client of the UI.
    """

    async def log_in(request: Request) -> Response:
        if (refusal := _refusal(request)) is not None:
            return refusal
        opened = login.open_link(request.query_params.get("token", ""))
        if opened is None:
            return _page(401, "This link works no more", _HOW_TO_LOG_IN)
        session, path = opened
        answer = RedirectResponse(path, 303, headers={"cache-control": "no-store"})
        answer.set_cookie(_COOKIE, session, httponly=True, samesite="strict")
        return answer

    async def hand_on(request: Request) -> Response:
        if (refusal := _refusal(request)) is not None:
            return refusal
        # A page of another site may lead here, or load something; it must not act as the user.
        # The header is one that scripts cannot set; a program that is no browser sends none.
        if request.headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
            return _page(403, "This request comes from another site", _HOW_TO_GO_ON)
        if not login.knows(request.cookies.get(_COOKIE, "")):
            return _page(401, "You are not logged in", _HOW_TO_LOG_IN)
        body = await _body_of(request)
        if body is None:
            return _page(413, "The request is too large", "Temporal takes 4 MiB at most.")
        query = f"?{request.url.query}" if request.url.query else ""
        try:
            answer = await temporal.send(
                temporal.build_request(
                    request.method,
                    f"{request.url.path}{query}",
                    headers=_headers_for_temporal(request),
                    content=body,
                ),
                stream=True,
            )
        except httpx.HTTPError:
            return _page(502, "Temporal's web UI does not answer", "Is it just starting?")
        return _handed_back(answer)

    def _refusal(request: Request) -> Response | None:
        # Another name for this address would be one that a foreign page has made up.
        if request.headers.get("host") != login.host:
            return _page(421, "This is no address of Temporal's web UI", _HOW_TO_LOG_IN)
        return None

    return Starlette(
        routes=[
            Route(LOGIN_PATH, log_in, methods=["GET"]),
            Route("/{path:path}", hand_on, methods=list(_METHODS)),
        ]
    )


async def _body_of(request: Request) -> bytes | None:
    """Read the body; None if it is too large."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_BODY_BYTES:
            return None
    return body


def _headers_for_temporal(request: Request) -> list[tuple[str, str]]:
    headers = [
        (name, value)
        for name, value in request.headers.items()
        if name not in _CONNECTION_HEADERS and name != "cookie"
    ]
    if "accept-encoding" not in request.headers:
        # Otherwise httpx would ask for compression, which nobody would undo.
        headers.append(("accept-encoding", "identity"))
    if _CSRF_COOKIE in request.cookies:
        headers.append(("cookie", f"{_CSRF_COOKIE}={request.cookies[_CSRF_COOKIE]}"))
    return headers


def _handed_back(answer: httpx.Response) -> Response:
    response = StreamingResponse(
        answer.aiter_raw(), answer.status_code, background=BackgroundTask(answer.aclose)
    )
    response.raw_headers = _without_ours(answer.headers.raw)
    return response


def _without_ours(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    ours = {name for name, _ in _HEADERS}
    return [
        (name, value)
        for name, value in headers
        if name.lower().decode("latin-1") not in _CONNECTION_HEADERS | ours
    ]


def _page(status: int, title: str, text: str) -> Response:
    return HTMLResponse(_PAGE.format(title=title, text=text), status)

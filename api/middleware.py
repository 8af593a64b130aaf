"""What happens around every request, as plain ASGI."""

import json
import re
import uuid
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote

import structlog
from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import RequestBodyIsTooLargeError

logger = structlog.get_logger(__name__)

MAX_BODY_BYTES: Final = 4 * 1024 * 1024

_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_SLASHES = re.compile(rb"/{2,}")


class RequestIdMiddleware:
    """Names each request, in its answer and in all log lines; answers what nobody has caught.

    A sane X-Request-ID of the caller is kept.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                logger.exception("unhandled_error", method=scope["method"], path=scope["path"])
                if started:
                    raise
                # The texts of unknown errors may hold anything, so none of it goes out.
                content = {"detail": "Internal Server Error", "request_id": request_id}
                await _send_json(send_with_id, 500, content)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_REQUEST_ID.fullmatch(value):
            return str(value.decode("ascii"))
    return uuid.uuid4().hex


async def _send_json(send: Send, status: int, content: Mapping[str, str]) -> None:
    body = json.dumps(content).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class TolerantRequestMiddleware:
    """Accepts what clients get slightly wrong: slashes and the content type.

    Double slashes count as one and a slash at the end as none, so that a base URL that ends in a
    slash works; a path with an encoded slash is nobody's. Every body is read as JSON, also that of
    `curl -d`, which calls it a form.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "http":
            raw_path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
            if b"%2f" in raw_path.lower():
                # Routing sees decoded paths, where this would separate names.
                await _send_json(send, 404, {"detail": "Not Found"})
                return
            scope = {
                **scope,
                **_normal_path(raw_path),
                # Without this header, FastAPI takes a body for JSON.
                "headers": [item for item in scope["headers"] if item[0] != b"content-type"],
            }
        await self._app(scope, receive, send)


def _normal_path(raw_path: bytes) -> dict[str, str | bytes]:
    normal = _SLASHES.sub(b"/", raw_path)
    if len(normal) > 1:
        normal = normal.removesuffix(b"/")
    if normal == raw_path:
        return {}
    return {"raw_path": normal, "path": unquote(normal.decode("latin-1"))}


class BodyLimitMiddleware:
    """Refuses request bodies over 4 MiB, also those that come in chunks of unknown number.

    The refusal comes when a route reads the body, so that authentication is judged before it.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._max_bytes:
                    # FastAPI lets only its own kind of exception through while it reads a body.
                    raise HTTPException(
                        RequestBodyIsTooLargeError.status, RequestBodyIsTooLargeError.detail
                    )
            return message

        await self._app(scope, receive_limited, send)

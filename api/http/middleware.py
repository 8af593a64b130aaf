"""What happens around every request, as plain ASGI."""

import asyncio
import gc
import json
import re
import uuid
from collections import deque
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote

import structlog
from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import (
    ControlPlaneError,
    RequestBodiesAreTooManyError,
    RequestBodyIsTooLargeError,
)

logger = structlog.get_logger(__name__)

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
MAX_BODY_BYTES_TOGETHER: Final = 64 * 1024 * 1024
"""Of all requests whose bodies have not been dealt with, as they came over the network."""
MAX_BODY_BYTES_AT_WORK: Final = MAX_BODY_BYTES
"""Of the requests that have been read as JSON: values take up to forty times their text."""
SMALL_BODY_BYTES: Final = 16 * 1024
"""Up to here a body does not wait for others."""
LARGE_BODY_BYTES: Final = 1024 * 1024
"""Beyond this, what a body has left is removed at once, which takes about 0.1 seconds."""

_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_SLASHES = re.compile(rb"/{2,}")


class RequestIdMiddleware:
    """Names each request, in its answer and in all log lines; answers errors of no known class.

    A sane X-Request-ID of the client is kept.
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
    slash works; a path with an encoded slash leads nowhere. Every body is read as JSON, also
    that of `curl -d`, which names it a form.
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
    """Keeps request bodies from filling the memory.

    One over 4 MiB is refused, also if it comes in chunks of unknown number, and any body while all
    those that are being received have reached 64 MiB. A large one waits, read but not parsed, until
    there is room for it among those that are being dealt with.

    Refusals come when a route reads the body, so that authentication is judged before it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int = MAX_BODY_BYTES,
        max_together: int = MAX_BODY_BYTES_TOGETHER,
        max_at_work: int = MAX_BODY_BYTES_AT_WORK,
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_together = max_together
        self._together = 0
        self._at_work = _ByteSemaphore(max_at_work)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0
        at_work = 0

        async def receive_limited() -> Message:
            nonlocal received, at_work
            message = await receive()
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                received += size
                self._together += size
                if received > self._max_bytes:
                    raise _refusal(RequestBodyIsTooLargeError)
                if self._together > self._max_together:
                    raise _refusal(RequestBodiesAreTooManyError, {"Retry-After": "1"})
                if not message.get("more_body") and received > SMALL_BODY_BYTES and not at_work:
                    await self._at_work.acquire(received)
                    at_work = received
            return message

        try:
            await self._app(scope, receive_limited, send)
        finally:
            self._together -= received
            if at_work > LARGE_BODY_BYTES:
                # An error that refers to itself by way of its frames keeps a refused body, and
                # millions of plain values in it do not bring about a collection.
                gc.collect()
            self._at_work.release(at_work)


def _refusal(
    error: type[ControlPlaneError], headers: dict[str, str] | None = None
) -> HTTPException:
    # FastAPI lets only its own kind of exception through while it reads a body.
    return HTTPException(error.status, error.detail, headers)


class _ByteSemaphore:
    """Room for so many bytes; what does not fit waits, first come, first served."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, size: int) -> None:
        if not self._waiting and size <= self._room:
            self._room -= size
            return
        admission = asyncio.get_running_loop().create_future()
        self._waiting.append((size, admission))
        try:
            await admission
        except asyncio.CancelledError:
            if admission.done() and not admission.cancelled():
                self.release(size)
            raise

    def release(self, size: int) -> None:
        self._room += size
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._room):
            wanted, admission = self._waiting.popleft()
            if not admission.done():
                self._room -= wanted
                admission.set_result(None)

"""From exceptions to answers, and the same errors for the OpenAPI document."""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from api.requests.parameters import IDEMPOTENCY_KEY
from core.contract.system import ErrorMessage, ValidationProblems
from core.errors import (
    ApiKeyIsInvalidError,
    AuthenticationSchemeIsInvalidError,
    ControlPlaneError,
    NotAuthenticatedError,
    RegistryIsNotMigratedError,
    RegistryIsUnavailableError,
    RequestBodiesAreTooManyError,
    RequestBodyIsTooLargeError,
    WorkerTokenScopeError,
)
from registry.queries.idempotency import IdempotencyKeyIsUsedError

logger = structlog.get_logger(__name__)

_METHODS: Final = ("DELETE", "GET", "HEAD", "POST", "PUT")
_RETRY_AFTER: Final = {"Retry-After": "1"}

MAX_ECHOED_CHARACTERS: Final = 1000
"""A 422 repeats the refused value only if it is no longer than this as JSON."""
_MAX_ECHOED_DEPTH: Final = 20
MAX_PROBLEMS: Final = 100
"""A 422 names no more problems than this: a body can have a million."""

_PASSING_SQLSTATES: Final = (
    "08",  # connection
    "25P03",  # the transaction was ended because we stood still
    "40",  # deadlock, serialization
    "53",  # out of connections, memory or disk
    "55P03",  # a lock was not free in time
    "57",  # shutdown, cancelled
    "58",  # the server's operating system
)
"""Beginnings of the SQLSTATEs that have nothing to do with what was asked."""

_LACKING_SQLSTATES: Final = {
    "42P01",  # no such table
    "42703",  # no such column
}
"""What a schema without the newest migrations, or without any, answers to our queries."""

_KEY_IS_USED: Final = {
    "type": "idempotency_key_used",
    "loc": ["header", IDEMPOTENCY_KEY],
    "msg": "The key was used for another request to this function",
}


def install(app: FastAPI) -> None:
    """Teach the application to answer our errors, validation errors and a database that is away."""

    async def answer_error(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, ControlPlaneError):
            raise error
        logger.info(
            "request_refused",
            reason=error.reason,
            status=error.status,
            method=request.method,
            path=request.url.path,
        )
        return JSONResponse({"detail": error.detail}, status_code=error.status)

    async def answer_validation_error(request: Request, error: Exception) -> JSONResponse:
        del request
        if not isinstance(error, RequestValidationError):
            raise error
        problems = [_presentable_problem(problem) for problem in error.errors()[:MAX_PROBLEMS]]
        return JSONResponse({"detail": problems}, status_code=422)

    async def answer_used_key(request: Request, error: Exception) -> JSONResponse:
        del request, error
        return JSONResponse({"detail": [_KEY_IS_USED]}, status_code=422)

    async def answer_database_error(request: Request, error: Exception) -> JSONResponse:
        unavailable: ControlPlaneError
        if _will_pass(error):
            unavailable = RegistryIsUnavailableError()
            logger.warning(unavailable.reason, path=request.url.path, error=str(error))
        elif _lacks_tables(error):
            unavailable = RegistryIsNotMigratedError()
            logger.error(unavailable.reason, path=request.url.path, exc_info=error)
        else:
            raise error
        return JSONResponse(
            {"detail": unavailable.detail}, status_code=unavailable.status, headers=_RETRY_AFTER
        )

    async def answer_wrong_method(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        # A path with several methods has a route for each, and the error knows only one of them.
        allowed = ", ".join(_methods_of(request))
        return JSONResponse({"detail": error.detail}, status_code=405, headers={"Allow": allowed})

    app.add_exception_handler(405, answer_wrong_method)
    app.add_exception_handler(ControlPlaneError, answer_error)
    app.add_exception_handler(RequestValidationError, answer_validation_error)
    app.add_exception_handler(IdempotencyKeyIsUsedError, answer_used_key)
    app.add_exception_handler(DBAPIError, answer_database_error)
    app.add_exception_handler(PoolTimeoutError, answer_database_error)


def _methods_of(request: Request) -> list[str]:
    """Give the methods that the request's path is served for."""
    routes = request.app.routes
    return [
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes
        )
    ]


def _will_pass(error: Exception) -> bool:
    """Say whether a database error is about the database and not about the request."""
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    sqlstate = _sqlstate_of(error)
    if sqlstate is not None:
        return sqlstate.startswith(_PASSING_SQLSTATES)
    # Without a state the server has not answered at all: refused, reset, timed out.
    return type(error).__name__ in {"OperationalError", "InterfaceError"}


def _lacks_tables(error: Exception) -> bool:
    """Say whether the schema is missing, or older than the code."""
    return isinstance(error, DBAPIError) and _sqlstate_of(error) in _LACKING_SQLSTATES


def _sqlstate_of(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _presentable_problem(problem: Mapping[str, Any]) -> dict[str, Any]:
    """Make one validation problem fit for JSON, without repeating large or deep values."""
    presentable: dict[str, Any] = {
        "type": problem["type"],
        "loc": _presentable(problem["loc"]),
        "msg": _presentable(problem["msg"]),
    }
    for key in ("input", "ctx"):
        if key not in problem:
            continue
        try:
            value = _presentable(problem[key])
            if len(json.dumps(value)) <= MAX_ECHOED_CHARACTERS:
                presentable[key] = value
        except ValueError:
            continue
    return presentable


def _presentable(value: Any) -> Any:  # noqa: ANN401 - any JSON
    return _EchoedValue().made_of(value)


class _EchoedValue:
    """Copies a refused value; gives up where it would be too long as JSON anyway."""

    def __init__(self) -> None:
        self._parts = 0

    def made_of(self, value: Any, depth: int = 0) -> Any:  # noqa: ANN401 - any JSON
        self._parts += 1
        if depth > _MAX_ECHOED_DEPTH or self._parts > MAX_ECHOED_CHARACTERS:
            raise ValueError("too deep or too long")
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, Mapping):
            return {
                _encodable(str(key)): self.made_of(item, depth + 1) for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.made_of(item, depth + 1) for item in value]
        return (
            value.decode(errors="replace") if isinstance(value, bytes) else _encodable(str(value))
        )


def _encodable(text: str) -> str:
    return text.encode(errors="replace").decode()


Responses = dict[int | str, dict[str, Any]]

_EVERYWHERE: Final[tuple[type[ControlPlaneError], ...]] = (
    NotAuthenticatedError,
    AuthenticationSchemeIsInvalidError,
    ApiKeyIsInvalidError,
    WorkerTokenScopeError,
    RegistryIsUnavailableError,
    RegistryIsNotMigratedError,
)


def responses(*errors: type[ControlPlaneError], with_body: bool = False) -> Responses:
    """Describe a route's errors for OpenAPI: those given, and those that every route has.

    Args:
        *errors: what the route raises beyond authentication.
        with_body: whether the route reads a body, which may be too large, also with others.
    """
    by_status: dict[int, list[type[ControlPlaneError]]] = {}
    too_large = (RequestBodyIsTooLargeError, RequestBodiesAreTooManyError) if with_body else ()
    for error in (*_EVERYWHERE, *errors, *too_large):
        by_status.setdefault(error.status, []).append(error)
    described: Responses = {
        status: {
            "model": ErrorMessage,
            "description": " / ".join(error.detail for error in errors_of_status),
            "content": {
                "application/json": {
                    "examples": {
                        error.__name__.removesuffix("Error"): {"value": {"detail": error.detail}}
                        for error in errors_of_status
                    }
                }
            },
        }
        for status, errors_of_status in sorted(by_status.items())
    }
    described[422] = {
        "model": ValidationProblems,
        "description": "The request does not fit: each problem is named with its place",
    }
    described[500] = {
        "model": ErrorMessage,
        "description": "Internal Server Error; the answer also carries `request_id`",
    }
    return described

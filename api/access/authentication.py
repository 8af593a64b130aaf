"""Who sends a request: the user with the API key, or a worker with its token.

`AuthenticatedRoute` authenticates a request before its body is even read. What the sender may do
is for `api.access.authorisation` to say.
"""

import hmac
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute

from api.requests.context import context_of
from core.errors import (
    ApiKeyIsInvalidError,
    AuthenticationSchemeIsInvalidError,
    NotAuthenticatedError,
)
from core.ids import ExecutionId
from registry.queries.token_secret import WorkerTokens

BEARER: Final = "bearer"
"""The security scheme of the OpenAPI document: a bearer token."""


@dataclass(frozen=True)
class Root:
    """The user, who holds the API key."""

    user: Literal["root"] = "root"


@dataclass(frozen=True)
class Worker:
    """The worker of an execution, with that execution's token."""

    execution_id: ExecutionId


Principal = Root | Worker


async def authenticate(
    header: str | None, *, api_keys: Sequence[str], tokens: WorkerTokens
) -> Principal:
    """Say who sends an Authorization header.

    Args:
        header: its value.
        api_keys: those that are good.
        tokens: knows the tokens of workers.

    Raises:
        NotAuthenticatedError: there is no header, or nothing after the scheme.
        AuthenticationSchemeIsInvalidError: the scheme is not Bearer (in any letter case).
        ApiKeyIsInvalidError: it is neither an API key nor a worker's token.
        SQLAlchemyError: it may be a worker's token, and the registry does not answer.
    """
    scheme, _, credential = (header or "").strip().partition(" ")
    credential = credential.strip()
    if not credential:
        raise NotAuthenticatedError
    if scheme.lower() != "bearer":
        raise AuthenticationSchemeIsInvalidError
    # Header values arrive as Latin-1 text; the key's own bytes are UTF-8.
    sent = credential.encode("latin-1")
    # With all of them: the time must not tell which one it was.
    matches = [hmac.compare_digest(sent, key.encode()) for key in api_keys]
    if any(matches):
        return Root()
    execution_id = await tokens.verify(credential)
    if execution_id is None:
        raise ApiKeyIsInvalidError
    return Worker(execution_id)


class _JsonRequest(Request):
    """A request whose body is JSON, whatever it says; all that is not JSON gives one error."""

    async def json(self) -> Any:  # noqa: ANN401 - the base class's signature
        try:
            return await super().json()
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            # Bad UTF-8, an integer of thousands of digits, nesting without end.
            raise json.JSONDecodeError(f"unreadable: {type(error).__name__}", "", 0) from None


class AuthenticatedRoute(APIRoute):
    """A route that judges the Authorization header before it looks at anything else."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - FastAPI's own
        super().__init__(*arguments, **options)
        self.openapi_extra = {**(self.openapi_extra or {}), "security": [{BEARER: []}]}

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        handle = super().get_route_handler()

        async def authenticate_and_handle(request: Request) -> Response:
            context = await context_of(request)
            request.state.principal = await authenticate(
                request.headers.get("authorization"),
                api_keys=context.api_keys,
                tokens=context.tokens,
            )
            return await handle(_JsonRequest(request.scope, request.receive))

        return authenticate_and_handle


class PublicRoute(APIRoute):
    """A route that needs no key. A test fails on a route that is neither this nor authenticated."""


async def _principal_of(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


PrincipalDep = Annotated[Principal, Depends(_principal_of)]
"""Who sends the request, for routes that ask `authorise_...` about it."""

"""Who calls, and what they may do.

The API key may do everything. A worker's token is good for its own execution, for reading its own
project and version, and for child invocations of its own invocation, as long as the execution is
open. Only its reports are let through later: they get the contract's 409.

Authentication happens in `AuthenticatedRoute`, before the request's body is even read. What a
worker may do is judged by each route: through `RootOnly` or `OwnExecution`, or, where the database
has to be asked, by calling one of the `authorise_...` functions with its `Caller`.
"""

import hmac
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy.ext.asyncio import AsyncSession

from api.requests.context import context_of
from core.contract.invocations import ParentInvocationDefinition
from core.errors import (
    ApiKeyIsInvalidError,
    AuthenticationSchemeIsInvalidError,
    NotAuthenticatedError,
    WorkerTokenScopeError,
)
from core.ids import ExecutionId, InvocationId
from core.tokens import ExecutionTokens
from registry.queries.executions import ExecutionScope, get_execution_scope
from registry.queries.invocations import get_parent_id


@dataclass(frozen=True)
class Root:
    """Whoever holds the API key."""

    user: Literal["root"] = "root"


@dataclass(frozen=True)
class Worker:
    """The worker of an execution, with that execution's token."""

    execution_id: ExecutionId


Principal = Root | Worker


def authenticate(header: str | None, *, api_key: str, tokens: ExecutionTokens) -> Principal:
    """Say who sends an Authorization header.

    Raises:
        NotAuthenticatedError: there is no header, or nothing after the scheme.
        AuthenticationSchemeIsInvalidError: the scheme is not Bearer (in any letter case).
        ApiKeyIsInvalidError: it is neither the API key nor a worker's token.
    """
    scheme, _, credential = (header or "").strip().partition(" ")
    credential = credential.strip()
    if not credential:
        raise NotAuthenticatedError
    if scheme.lower() != "bearer":
        raise AuthenticationSchemeIsInvalidError
    # Header values arrive as Latin-1 text; the key's own bytes are UTF-8.
    if hmac.compare_digest(credential.encode("latin-1"), api_key.encode()):
        return Root()
    execution_id = tokens.verify(credential)
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

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        handle = super().get_route_handler()

        async def authenticate_and_handle(request: Request) -> Response:
            context = await context_of(request)
            request.state.principal = authenticate(
                request.headers.get("authorization"),
                api_key=context.api_key,
                tokens=context.tokens,
            )
            return await handle(_JsonRequest(request.scope, request.receive))

        return authenticate_and_handle


async def _principal(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


async def _require_root(principal: Annotated[Principal, Depends(_principal)]) -> None:
    if not isinstance(principal, Root):
        raise WorkerTokenScopeError


async def _require_own_execution(
    request: Request, principal: Annotated[Principal, Depends(_principal)]
) -> None:
    named = request.path_params["execution_id"]
    if isinstance(principal, Worker) and principal.execution_id != named:
        raise WorkerTokenScopeError


Caller = Annotated[Principal, Depends(_principal)]
"""The caller, for routes that ask `authorise_...` about it."""
RootOnly = Depends(_require_root)
"""For routes that no worker may call."""
OwnExecution = Depends(_require_own_execution)
"""For routes that a worker may call about its own execution."""


async def authorise_reading_project(
    session: AsyncSession, principal: Principal, *, project_name: str
) -> None:
    """Let a worker read the project that it runs in.

    Raises:
        WorkerTokenScopeError: it is another one, or the worker's execution has ended.
    """
    if isinstance(principal, Root):
        return
    if (await _scope_of(session, principal)).project_name != project_name:
        raise WorkerTokenScopeError


async def authorise_reading_execution(session: AsyncSession, principal: Principal) -> None:
    """Let a worker read its own execution; that it is its own is for `OwnExecution` to say.

    An execution that does not exist is let through, to its 404.

    Raises:
        WorkerTokenScopeError: the worker's execution has ended.
    """
    if isinstance(principal, Root):
        return
    scope = await get_execution_scope(session, principal.execution_id)
    if scope is not None and not scope.is_open:
        raise WorkerTokenScopeError


async def authorise_new_invocation(
    session: AsyncSession,
    principal: Principal,
    *,
    project_name: str,
    parent: ParentInvocationDefinition | None,
) -> None:
    """Let a worker create children of its own invocation.

    Raises:
        WorkerTokenScopeError: it asks for anything else, or its execution has ended.
    """
    if isinstance(principal, Root):
        return
    scope = await _scope_of(session, principal)
    is_own_child = (
        parent is not None
        and parent.invocation_id == scope.invocation_id
        and parent.function_name == scope.function_name
    )
    if not (is_own_child and scope.project_name == project_name):
        raise WorkerTokenScopeError


async def authorise_reading_invocation(
    session: AsyncSession, principal: Principal, *, invocation_id: InvocationId
) -> None:
    """Let a worker read its own invocation and the children of it.

    Raises:
        WorkerTokenScopeError: it is another one, or does not exist, or the worker's execution has
            ended.
    """
    if isinstance(principal, Root):
        return
    own = (await _scope_of(session, principal)).invocation_id
    if invocation_id != own and await get_parent_id(session, invocation_id) != own:
        raise WorkerTokenScopeError


async def authorise_cancelling(
    session: AsyncSession, principal: Principal, *, invocation_id: InvocationId
) -> None:
    """Let a worker cancel children of its own invocation.

    Raises:
        WorkerTokenScopeError: it is another one, or does not exist, or the worker's execution has
            ended.
    """
    if isinstance(principal, Root):
        return
    scope = await _scope_of(session, principal)
    if await get_parent_id(session, invocation_id) != scope.invocation_id:
        raise WorkerTokenScopeError


async def authorise_listing(
    session: AsyncSession, principal: Principal, *, parent_id: str | None
) -> None:
    """Let a worker list the children of its own invocation.

    Raises:
        WorkerTokenScopeError: it asks for anything else, or its execution has ended.
    """
    if isinstance(principal, Root):
        return
    scope = await _scope_of(session, principal)
    if parent_id != scope.invocation_id:
        raise WorkerTokenScopeError


async def _scope_of(session: AsyncSession, worker: Worker) -> ExecutionScope:
    scope = await get_execution_scope(session, worker.execution_id)
    if scope is None or not scope.is_open:
        raise WorkerTokenScopeError
    return scope

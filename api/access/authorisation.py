"""What the sender of a request may do.

The API key may do everything. A worker's token may do what this table says, as long as the worker's
execution is open. Its reports are let through later too: they get the contract's 409.

    a request to                     a worker's token is good for     judged by
    -------------------------------  -------------------------------  ----------------------------
    create, delete or list projects  nothing                          RootOnly
    create or list versions          nothing                          RootOnly
    announce or upload a bundle      nothing                          RootOnly
    read a project or version        its own project                  authorise_reading_project
    create an invocation             children of its invocation       authorise_new_invocation
    read an invocation               its invocation and its children  authorise_reading_invocation
    cancel an invocation             children of its invocation       authorise_cancelling
    list invocations or children     children of its invocation       authorise_listing
    report on an execution           its own, also late               OwnExecution
    read an execution or its log     its own                          OwnExecution,
                                                                      authorise_reading_execution
    read the credentials for images  nothing                          RootOnly
    open Temporal's web UI           nothing                          RootOnly

`PublicRoute` needs no key: the health check and the reference. Nor does the OpenAPI document, which
is FastAPI's own.
"""

from typing import Final

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from api.access.authentication import Principal, PrincipalDep, Root, Worker
from core.contract.invocations import ParentInvocationDefinition
from core.errors import WorkerTokenScopeError
from core.ids import InvocationId
from registry.queries.executions import ExecutionScope, get_execution_scope
from registry.queries.invocations import get_parent_id


async def _require_root(principal: PrincipalDep) -> None:
    if not isinstance(principal, Root):
        raise WorkerTokenScopeError


async def _require_own_execution(request: Request, principal: PrincipalDep) -> None:
    named = request.path_params["execution_id"]
    if isinstance(principal, Worker) and principal.execution_id != named:
        raise WorkerTokenScopeError


RootOnly: Final = Depends(_require_root)
"""For routes that refuse every worker."""
OwnExecution: Final = Depends(_require_own_execution)
"""For routes about an execution that admit only its own worker, and the user."""


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

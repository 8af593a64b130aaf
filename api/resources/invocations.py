"""Routes for invocations."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query, Request

from api.access.authentication import AuthenticatedRoute, PrincipalDep
from api.access.authorisation import (
    authorise_cancelling,
    authorise_listing,
    authorise_new_invocation,
    authorise_reading_invocation,
)
from api.requests.context import ContextDep
from api.requests.errors import responses
from api.requests.parameters import (
    FunctionPathDep,
    IdempotencyKey,
    InitialOffset,
    InvocationPathDep,
    MaxResults,
)
from api.requests.waiting import WaitSeconds, read_when_ended
from api.views.invocations import invocation_info, invocations_list
from core.contract.base import CleanText
from core.contract.invocations import (
    InvocationDefinition,
    InvocationInfo,
    InvocationsListForFunction,
    ParentInvocationDefinition,
)
from core.contract.paging import MAX_INVOCATIONS_PER_PAGE, InvocationOffset, page_size
from core.errors import (
    FunctionDoesNotExistError,
    InvocationDoesNotExistError,
    InvocationIsAlreadyTerminatedError,
    OffsetIsInvalidError,
    ParentFunctionNameIsMissingError,
    ParentInvocationDoesNotExistError,
    ParentInvocationIdIsMissingError,
    ProjectDoesNotExistError,
    VersionDoesNotExistError,
)
from core.ids import VersionId
from core.states import InvocationStatus
from registry.queries import invocation_pages, invocations
from registry.queries.invocations import start_of
from registry.transitions.cancellation import request_cancellation

router = APIRouter(
    prefix="/projects/{project_name}/versions/{version_id}/functions/{function_name}/invocations",
    tags=["invocations"],
    route_class=AuthenticatedRoute,
)

_FUNCTION_MISSING = (ProjectDoesNotExistError, VersionDoesNotExistError, FunctionDoesNotExistError)
_INVOCATION_MISSING = (*_FUNCTION_MISSING, InvocationDoesNotExistError)


@router.post(
    "",
    responses=responses(*_FUNCTION_MISSING, ParentInvocationDoesNotExistError, with_body=True),
)
async def create_invocation(
    function: FunctionPathDep,
    definition: InvocationDefinition,
    context: ContextDep,
    principal: PrincipalDep,
    idempotency_key: IdempotencyKey = None,
) -> InvocationInfo:
    """Call a function. The call is recorded at once and runs as soon as there is a slot for it.

    With an `Idempotency-Key`, the same request repeated gives the invocation that the first one has
    created, in its present state.
    """
    # Most are created by one statement (`invocations.create_invocation`): a transaction by itself.
    is_one_statement = definition.parent_invocation is None and idempotency_key is None
    registry = context.registry
    async with registry.autocommit() if is_one_statement else registry.transaction() as session:
        await authorise_new_invocation(
            session,
            principal,
            project_name=function.project_name,
            parent=definition.parent_invocation,
        )
        created = await invocations.create_invocation(
            session,
            project_name=function.project_name,
            version_id=function.version_id,
            function_name=function.function_name,
            input_=definition.input,
            parent=definition.parent_invocation,
            idempotency_key=idempotency_key,
        )
    # A repeated request also makes up for a workflow that could not be started the first time.
    if created.invocation.status == InvocationStatus.RUNNING:
        start = start_of(created.context, created.invocation)
        await context.after_commit.send(context.dispatcher.start_invocation(start))
    return invocation_info(created, context.links)


@router.put(
    "/{invocation_id}/cancel",
    responses=responses(*_INVOCATION_MISSING, InvocationIsAlreadyTerminatedError),
)
async def cancel_invocation(
    path: InvocationPathDep, context: ContextDep, principal: PrincipalDep
) -> InvocationInfo:
    """Ask for an invocation and all its descendants to be cancelled.

    Returns at once; the invocation is TERMINATED when its worker is gone. Asking again keeps the
    first time.
    """
    async with context.registry.transaction() as session:
        await authorise_cancelling(session, principal, invocation_id=path.invocation_id)
        found = await invocations.find_invocation(session, path)
        to_cancel = await request_cancellation(session, found)
        cancelled = await invocations.get_invocation(session, path)
    await context.after_commit.send(context.dispatcher.cancel_invocations(to_cancel))
    return invocation_info(cancelled, context.links)


@router.get("/{invocation_id}", responses=responses(*_INVOCATION_MISSING))
async def get_invocation(
    path: InvocationPathDep,
    context: ContextDep,
    principal: PrincipalDep,
    *,
    request: Request,
    wait: WaitSeconds = None,
) -> InvocationInfo:
    """Give an invocation with its executions; with `wait`, as soon as it is TERMINATED."""

    async def read() -> invocations.InvocationDetails:
        nonlocal path
        async with context.registry.autocommit() as session:
            await authorise_reading_invocation(session, principal, invocation_id=path.invocation_id)
            found = await invocations.get_invocation(session, path)
        # While it waits, `latest` may come to mean another version.
        path = replace(path, version_id=VersionId(found.context.version.id))
        return found

    found = await read_when_ended(
        read, context, invocation_id=path.invocation_id, request=request, wait=wait
    )
    return invocation_info(found, context.links)


@router.get(
    "",
    responses=responses(
        OffsetIsInvalidError,
        ParentFunctionNameIsMissingError,
        ParentInvocationIdIsMissingError,
        *_FUNCTION_MISSING,
    ),
)
async def list_invocations(
    function: FunctionPathDep,
    context: ContextDep,
    principal: PrincipalDep,
    *,
    max_results: MaxResults = None,
    initial_offset: InitialOffset = None,
    status: Annotated[InvocationStatus | None, Query(description="Only this status")] = None,
    parent_function_name: Annotated[
        CleanText | None,
        Query(description="Only children of this function's invocation; needs the next one too"),
    ] = None,
    parent_invocation_id: Annotated[
        CleanText | None,
        Query(description="Only children of this invocation; needs its function's name too"),
    ] = None,
) -> InvocationsListForFunction:
    """Give a page of a function's invocations, newest first. The filters combine with AND."""
    offset = None if initial_offset is None else InvocationOffset.parse(initial_offset)
    parent = _parent_filter(parent_function_name, parent_invocation_id)
    async with context.registry.autocommit() as session:
        await authorise_listing(session, principal, parent_id=parent_invocation_id)
        page = await invocation_pages.list_invocations(
            session,
            function,
            page_size=page_size(max_results, maximum=MAX_INVOCATIONS_PER_PAGE),
            offset=offset,
            status=status,
            parent=parent,
        )
        return invocations_list(page, context.links)


def _parent_filter(
    function_name: str | None, invocation_id: str | None
) -> ParentInvocationDefinition | None:
    if function_name is None and invocation_id is None:
        return None
    if function_name is None:
        raise ParentFunctionNameIsMissingError
    if invocation_id is None:
        raise ParentInvocationIdIsMissingError
    return ParentInvocationDefinition(function_name=function_name, invocation_id=invocation_id)

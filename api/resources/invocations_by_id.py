"""Routes for invocations that are named by their id alone."""

from fastapi import APIRouter, Request

from api.access.authentication import AuthenticatedRoute, PrincipalDep
from api.access.authorisation import authorise_listing, authorise_reading_invocation
from api.requests.context import ContextDep
from api.requests.errors import responses
from api.requests.parameters import InitialOffset, InvocationIdText, MaxResults
from api.requests.waiting import WaitSeconds, read_when_ended
from api.views.invocations import children_list, invocation_info
from core.contract.invocations import ChildInvocationsList, InvocationInfo
from core.contract.paging import MAX_INVOCATIONS_PER_PAGE, InvocationOffset, page_size
from core.errors import InvocationIdDoesNotExistError, OffsetIsInvalidError
from core.ids import InvocationId
from registry.queries import invocation_pages, invocations

router = APIRouter(
    prefix="/invocations/{invocation_id}",
    tags=["invocations"],
    route_class=AuthenticatedRoute,
)


@router.get("", responses=responses(InvocationIdDoesNotExistError))
async def get_invocation_by_id(
    invocation_id: InvocationIdText,
    context: ContextDep,
    principal: PrincipalDep,
    *,
    request: Request,
    wait: WaitSeconds = None,
) -> InvocationInfo:
    """Give an invocation as its own path does; with `wait`, as soon as it is TERMINATED."""

    async def read() -> invocations.InvocationDetails:
        async with context.registry.autocommit() as session:
            await authorise_reading_invocation(
                session, principal, invocation_id=InvocationId(invocation_id)
            )
            return await invocations.get_invocation_by_id(session, InvocationId(invocation_id))

    found = await read_when_ended(
        read, context, invocation_id=invocation_id, request=request, wait=wait
    )
    return invocation_info(found, context.links)


@router.get("/children", responses=responses(OffsetIsInvalidError, InvocationIdDoesNotExistError))
async def list_children(
    invocation_id: InvocationIdText,
    context: ContextDep,
    principal: PrincipalDep,
    *,
    max_results: MaxResults = None,
    initial_offset: InitialOffset = None,
) -> ChildInvocationsList:
    """Give a page of an invocation's children, of all functions, newest first.

    Only its own children, not theirs in turn.
    """
    offset = None if initial_offset is None else InvocationOffset.parse(initial_offset)
    async with context.registry.autocommit() as session:
        await authorise_listing(session, principal, parent_id=invocation_id)
        page = await invocation_pages.list_children(
            session,
            InvocationId(invocation_id),
            page_size=page_size(max_results, maximum=MAX_INVOCATIONS_PER_PAGE),
            offset=offset,
        )
        return children_list(page, context.links)

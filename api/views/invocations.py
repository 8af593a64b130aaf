"""Invocations, as the contract shows them."""

from api.views.executions import execution_summary
from api.views.shared import (
    InvocationState,
    Links,
    function_facts,
    function_names,
    invocation_state,
)
from core.contract.invocations import (
    ChildInvocationsList,
    ChildInvocationSummary,
    InvocationInfo,
    InvocationsListForFunction,
    InvocationSummary,
    ParentInvocationInfo,
    ParentInvocationReference,
)
from core.states import Phase
from registry.explanations import shown_detail
from registry.queries.invocation_pages import ChildPage, InvocationPage, ListedInvocation
from registry.queries.invocations import InvocationDetails, Parent


def invocation_info(details: InvocationDetails, links: Links) -> InvocationInfo:
    """Show an invocation with its executions."""
    invocation = details.invocation
    return InvocationInfo(
        **function_names(details.context),
        **function_facts(details.context.function),
        **invocation_state(invocation),
        parent_invocation=None if details.parent is None else _parent_info(details.parent),
        input=invocation.input,
        executions=[execution_summary(execution, links) for execution in details.executions],
        phase=invocation.phase,
        phase_detail=shown_detail(invocation.phase, invocation.phase_detail, invocation.trouble),
        queue_position=details.queue_position,
        temporal_url=links.invocation(invocation.id),
    )


def _parent_info(parent: Parent) -> ParentInvocationInfo:
    return ParentInvocationInfo(
        **invocation_state(parent.invocation), function_name=parent.function_name
    )


def invocations_list(page: InvocationPage, links: Links) -> InvocationsListForFunction:
    """Show a page of a function's invocations."""
    return InvocationsListForFunction(
        **function_names(page.context),
        invocations=[InvocationSummary(**_summary_facts(entry, links)) for entry in page.entries],
        next_offset=None if page.next_offset is None else str(page.next_offset),
    )


def children_list(page: ChildPage, links: Links) -> ChildInvocationsList:
    """Show a page of the children of an invocation."""
    return ChildInvocationsList(
        **function_names(page.context),
        invocation_id=page.parent_id,
        invocations=[
            ChildInvocationSummary(
                **_summary_facts(entry, links), function_name=entry.function_name
            )
            for entry in page.entries
        ],
        next_offset=None if page.next_offset is None else str(page.next_offset),
    )


class _SummaryFacts(InvocationState):
    """What both of these lists show of an invocation."""

    parent_invocation: ParentInvocationReference | None
    phase: Phase
    phase_detail: str | None
    attempts: int
    temporal_url: str | None


def _summary_facts(entry: ListedInvocation, links: Links) -> _SummaryFacts:
    invocation = entry.invocation
    return {
        **invocation_state(invocation),
        "parent_invocation": _parent_reference(entry),
        "phase": invocation.phase,
        "phase_detail": shown_detail(invocation.phase, invocation.phase_detail, invocation.trouble),
        "attempts": entry.attempts,
        "temporal_url": links.invocation(invocation.id),
    }


def _parent_reference(entry: ListedInvocation) -> ParentInvocationReference | None:
    parent_id = entry.invocation.parent_id
    if parent_id is None or entry.parent_function_name is None:
        return None
    return ParentInvocationReference(
        function_name=entry.parent_function_name, invocation_id=parent_id
    )

"""Pages of a function's invocations, however many there are.

Each page is read from one range of an index per status, already in order: what it costs depends on
its size alone. Both indexes begin with what is equal for all entries and end with the id:

- (function, status, id) for all invocations of a function,
- (parent, function, status, id) for the children of one invocation.

A list of both statuses merges the beginnings of two ranges. So no index without the status is
needed, which every change of an invocation would have to write to as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    Integer,
    bindparam,
    literal,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased, defer

from core.contract.invocations import ParentInvocationDefinition
from core.contract.paging import InvocationOffset
from core.ids import VersionId
from core.lifecycle import InvocationStatus
from registry.functions import AnySelect, get_function
from registry.slots import FunctionContext
from registry.tables import Function, Invocation

_MAX_MILLISECONDS = 2**48 - 1
"""The latest time that a time-ordered id can hold."""
_AFTER_ALL_IDS = "inv-g"
"""Greater than every id of an invocation: these have hexadecimal digits only."""

_OF_PARENT = aliased(Invocation)


@dataclass(frozen=True, kw_only=True)
class ListedInvocation:
    """An invocation in a list. Its input is not loaded."""

    invocation: Invocation
    parent_function_name: str | None
    """None if it has no parent."""


@dataclass(frozen=True, kw_only=True)
class InvocationPage:
    """Some invocations of a function, newest first."""

    context: FunctionContext
    entries: Sequence[ListedInvocation]
    next_offset: InvocationOffset | None


async def list_invocations(
    session: AsyncSession,
    *,
    project_name: str,
    version_id: VersionId | None,
    function_name: str,
    page_size: int,
    offset: InvocationOffset | None = None,
    status: InvocationStatus | None = None,
    parent: ParentInvocationDefinition | None = None,
) -> InvocationPage:
    """Give a page of a function's invocations, newest first.

    Args:
        session: the transaction.
        project_name: the project.
        version_id: the version, or None for the newest.
        function_name: the function.
        page_size: entries at most; 0 gives none, and the offset of the first.
        offset: where to begin; that invocation is included and need not exist.
        status: only invocations of this status.
        parent: only children of this invocation; one that does not exist has none.

    Raises:
        ProjectDoesNotExistError: there is no such project.
        VersionDoesNotExistError: the project has no such version, or none at all.
        FunctionDoesNotExistError: the version has no such function.
    """
    context = await get_function(
        session, project_name=project_name, version_id=version_id, function_name=function_name
    )
    values: dict[str, Any] = {
        "function_id": context.function.id,
        "before": _AFTER_ALL_IDS if offset is None else _first_id_behind(offset),
        "one_more": page_size + 1,
    }
    if parent is not None:
        values["parent_id"] = parent.invocation_id
        values["parent_function_name"] = parent.function_name
    rows = (await session.execute(_select_page(status, of_parent=parent is not None), values)).all()
    entries = [
        ListedInvocation(invocation=invocation, parent_function_name=parent_function_name)
        for invocation, parent_function_name in rows
    ]
    next_offset = None
    if len(entries) > page_size:
        first = entries[page_size].invocation
        next_offset = InvocationOffset(int(first.created_at.timestamp()), first.id)
    return InvocationPage(context=context, entries=entries[:page_size], next_offset=next_offset)


_ONE_MORE: BindParameter[int] = bindparam("one_more", type_=Integer(), literal_execute=True)
"""A number in the statement itself, so that no plan is made for pages of unknown size."""

_FUNCTION_OF_PARENT = (
    select(Function.name)
    .join(_OF_PARENT, _OF_PARENT.function_id == Function.id)
    .where(_OF_PARENT.id == Invocation.parent_id)
    .correlate(Invocation)
    .scalar_subquery()
)
"""Looked up for each entry. In a join, Postgres may go through all invocations for the parents."""

_NAMED_PARENT_EXISTS = (
    select(_OF_PARENT.id)
    .join(Function, Function.id == _OF_PARENT.function_id)
    .where(
        _OF_PARENT.id == bindparam("parent_id"),
        Function.name == bindparam("parent_function_name"),
    )
    .exists()
)


@cache
def _select_page(status: InvocationStatus | None, *, of_parent: bool) -> AnySelect:
    """Select (Invocation, name of its parent's function), newest first.

    Parameters of the statement: `function_id`, `before`, `one_more` and, for the children of one
    invocation, `parent_id` and `parent_function_name`.
    """
    statuses = InvocationStatus if status is None else (status,)
    ranges = [_select_ids(each, of_parent=of_parent).subquery() for each in statuses]
    ids = union_all(*(select(each.c.id) for each in ranges)).subquery()
    page = select(ids.c.id).order_by(ids.c.id.desc()).limit(_ONE_MORE)
    if of_parent:
        page = page.where(_NAMED_PARENT_EXISTS)
    found = page.subquery()
    return (
        select(Invocation, _FUNCTION_OF_PARENT)
        .join(found, found.c.id == Invocation.id)
        .options(defer(Invocation.input, raiseload=True))
        .order_by(Invocation.id.desc())
    )


def _select_ids(status: InvocationStatus, *, of_parent: bool) -> AnySelect:
    """Select the ids of one status, newest first.

    The status is compared by its order, and sorted by, although it is the same for all entries:
    only the index meant here can give that order. Sorted by the id alone, Postgres may as well go
    through the primary key until it has met enough of the function's invocations.
    """
    listed = aliased(Invocation)
    same_status = literal(status, type_=listed.status.type)
    before = bindparam("before", type_=listed.id.type)
    ids = select(listed.id).where(
        listed.function_id == bindparam("function_id"),
        # Where the range begins, seen from its newest entry, and where it ends. A comparison of
        # rows could not end it: Postgres would read on through the other status.
        tuple_(listed.status, listed.id) < tuple_(same_status, before),
        listed.status >= same_status,
    )
    if of_parent:
        ids = ids.where(listed.parent_id == bindparam("parent_id"))
    return ids.order_by(listed.status.desc(), listed.id.desc()).limit(_ONE_MORE)


def _first_id_behind(offset: InvocationOffset) -> str:
    """Give the text that all ids of the page, and of later ones, are less than.

    The order of the contract is by (second of creation, id). The second is a part of each id, so
    that comparing ids is enough: ids of other seconds than the offset's are all before it or all
    behind it, whatever the offset's id is.
    """
    first_of_second = _first_id_at(offset.creation_time * 1000)
    first_after_second = _first_id_at((offset.creation_time + 1) * 1000)
    # The offset itself is a part of the page; this is the least text greater than it.
    after_offset = offset.invocation_id + "\x01"
    return min(max(after_offset, first_of_second), first_after_second)


def _first_id_at(milliseconds: int) -> str:
    return f"inv-{min(max(milliseconds, 0), _MAX_MILLISECONDS):012x}"

"""Pages of a function's invocations, however many there are.

Each page is read from one range of an index per status, already in order: what it costs depends on
its size alone. Both indexes begin with what is equal for all entries and end with the id:

- (function, status, id) for all invocations of a function,
- (parent, function, status, id) for the children of one invocation.

The children of one invocation are all of its version, so the second index also gives those of
whatever function: a range for each function of the version.

A list of both statuses merges the beginnings of two ranges. So no index without the status is
needed, which every change of an invocation would have to write to as well.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Integer,
    Subquery,
    bindparam,
    func,
    literal,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, aliased, defer

from core.contract.invocations import ParentInvocationDefinition
from core.contract.paging import InvocationOffset
from core.errors import InvocationIdDoesNotExistError
from core.ids import InvocationId
from core.states import InvocationStatus
from registry.database.tables import Execution, Function, Invocation
from registry.queries.paths import (
    AnySelect,
    FunctionContext,
    FunctionPath,
    InvocationRow,
    get_function,
    select_invocation_by_id,
)

_MAX_MILLISECONDS = 2**48 - 1
"""The latest time that a time-ordered id can hold."""
_AFTER_ALL_IDS = "inv-g"
"""Greater than every id of an invocation: these have hexadecimal digits only."""

_OF_PARENT = aliased(Invocation)
_WITHOUT_INPUT = defer(Invocation.input, raiseload=True)


@dataclass(frozen=True, kw_only=True)
class ListedInvocation:
    """An invocation in a list. Its input is not loaded."""

    invocation: Invocation
    parent_function_name: str | None
    """None if it has no parent."""
    attempts: int
    """Its executions so far."""


@dataclass(frozen=True, kw_only=True)
class InvocationPage:
    """Some invocations of a function, newest first."""

    context: FunctionContext
    entries: Sequence[ListedInvocation]
    next_offset: InvocationOffset | None


@dataclass(frozen=True, kw_only=True)
class ListedChild(ListedInvocation):
    """A child of an invocation in a list."""

    function_name: str


@dataclass(frozen=True, kw_only=True)
class ChildPage:
    """Some children of an invocation, newest first."""

    context: FunctionContext
    """Where the parent is."""
    parent_id: InvocationId
    entries: Sequence[ListedChild]
    next_offset: InvocationOffset | None


async def list_invocations(
    session: AsyncSession,
    path: FunctionPath,
    *,
    page_size: int,
    offset: InvocationOffset | None = None,
    status: InvocationStatus | None = None,
    parent: ParentInvocationDefinition | None = None,
) -> InvocationPage:
    """Give a page of a function's invocations, newest first.

    Args:
        session: the transaction.
        path: leads to the function.
        page_size: entries at most; 0 gives none, and the offset of the first.
        offset: where to begin; that invocation is included and need not exist.
        status: only invocations of this status.
        parent: only children of this invocation; one that does not exist has none.

    Raises:
        ProjectDoesNotExistError: there is no such project.
        VersionDoesNotExistError: the project has no such version, or none at all.
        FunctionDoesNotExistError: the version has no such function.
    """
    context = await get_function(session, path)
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
        ListedInvocation(
            invocation=invocation, attempts=attempts, parent_function_name=parent_function_name
        )
        for invocation, attempts, parent_function_name in rows
    ]
    return InvocationPage(
        context=context,
        entries=entries[:page_size],
        next_offset=_offset_behind(entries, page_size=page_size),
    )


async def list_children(
    session: AsyncSession,
    parent_id: InvocationId,
    *,
    page_size: int,
    offset: InvocationOffset | None = None,
) -> ChildPage:
    """Give a page of the children of an invocation, whatever their function, newest first.

    Args:
        session: the transaction.
        parent_id: the invocation that has made them.
        page_size: entries at most; 0 gives none, and the offset of the first.
        offset: where to begin; that invocation is included and need not exist.

    Raises:
        InvocationIdDoesNotExistError: there is no such parent.
    """
    of_parent = select_invocation_by_id().options(_WITHOUT_INPUT)
    row = (await session.execute(of_parent, {"invocation_id": parent_id})).one_or_none()
    if row is None:
        raise InvocationIdDoesNotExistError
    context = InvocationRow(*row).found_function()
    values: dict[str, Any] = {
        "version_id": context.version.id,
        "parent_id": parent_id,
        "before": _AFTER_ALL_IDS if offset is None else _first_id_behind(offset),
        "one_more": page_size + 1,
    }
    rows = (await session.execute(_select_children(), values)).all()
    entries = [
        ListedChild(
            invocation=invocation,
            attempts=attempts,
            function_name=function_name,
            parent_function_name=context.function.name,
        )
        for invocation, attempts, function_name in rows
    ]
    return ChildPage(
        context=context,
        parent_id=parent_id,
        entries=entries[:page_size],
        next_offset=_offset_behind(entries, page_size=page_size),
    )


def _offset_behind(
    entries: Sequence[ListedInvocation], *, page_size: int
) -> InvocationOffset | None:
    if len(entries) <= page_size:
        return None
    first = entries[page_size].invocation
    return InvocationOffset(int(first.created_at.timestamp()), first.id)


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

_ATTEMPTS = (
    select(func.coalesce(func.max(Execution.attempt), 0))
    .where(Execution.invocation_id == Invocation.id)
    .correlate(Invocation)
    .scalar_subquery()
)
"""Looked up for each entry, in the index of their numbers, which follow one another from 1."""

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
    """Select (Invocation, attempts, name of its parent's function), newest first.

    Parameters of the statement: `function_id`, `before`, `one_more` and, for the children of one
    invocation, `parent_id` and `parent_function_name`.
    """
    statuses = InvocationStatus if status is None else (status,)
    function_id: BindParameter[str] = bindparam("function_id")
    ranges = [
        _select_ids(each, function_id=function_id, of_parent=of_parent).subquery()
        for each in statuses
    ]
    page = _newest(select(each.c.id) for each in ranges)
    if of_parent:
        page = page.where(_NAMED_PARENT_EXISTS)
    found = page.subquery()
    return _in_order(select(Invocation, _ATTEMPTS, _FUNCTION_OF_PARENT), found)


@cache
def _select_children() -> AnySelect:
    """Select (Invocation, attempts, name of its function), newest first.

    Parameters of the statement: `version_id`, `parent_id`, `before`, `one_more`.
    """
    function = aliased(Function)
    ranges = [
        _select_ids(status, function_id=function.id, of_parent=True).lateral()
        for status in InvocationStatus
    ]
    found = _newest(
        select(each.c.id)
        .select_from(function)
        .join(each, true())
        .where(function.version_id == bindparam("version_id"))
        for each in ranges
    ).subquery()
    children = select(Invocation, _ATTEMPTS, Function.name).join(
        Function, Function.id == Invocation.function_id
    )
    return _in_order(children, found)


def _newest(ranges: Iterable[AnySelect]) -> AnySelect:
    ids = union_all(*ranges).subquery()
    return select(ids.c.id).order_by(ids.c.id.desc()).limit(_ONE_MORE)


def _in_order(entries: AnySelect, page: Subquery) -> AnySelect:
    return (
        entries.join(page, page.c.id == Invocation.id)
        .options(_WITHOUT_INPUT)
        .order_by(Invocation.id.desc())
    )


def _select_ids(
    status: InvocationStatus,
    *,
    function_id: ColumnElement[str] | InstrumentedAttribute[str],
    of_parent: bool,
) -> AnySelect:
    """Select the ids of one status, newest first.

    The status is compared by its order, and sorted by, although it is the same for all entries:
    only the index meant here can give that order. Sorted by the id alone, Postgres may as well go
    through the primary key until it has met enough of the function's invocations.
    """
    listed = aliased(Invocation)
    same_status = literal(status, type_=listed.status.type)
    before = bindparam("before", type_=listed.id.type)
    ids = select(listed.id).where(
        listed.function_id == function_id,
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

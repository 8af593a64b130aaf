"""Queries for invocations: create and get."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Final

from psycopg.errors import ForeignKeyViolation
from sqlalchemy import bindparam, case, func, insert, select, true
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased, defer

from core.contract.invocations import ParentInvocationDefinition
from core.errors import (
    FunctionDoesNotExistError,
    InvocationIdDoesNotExistError,
    ParentInvocationDoesNotExistError,
    ProjectDoesNotExistError,
)
from core.ids import InvocationId, VersionId, creation_time_of, new_invocation_id
from core.messages import InvocationStart
from core.states import InvocationStatus, Phase, QueueReason
from registry.database.tables import (
    Execution,
    Function,
    Invocation,
    Project,
    constant,
    pool_of_function,
    table_of,
)
from registry.queries.idempotency import find_repeated, insert_once, request_digest
from registry.queries.paths import (
    AnySelect,
    FunctionContext,
    FunctionPath,
    FunctionRow,
    InvocationPath,
    InvocationRow,
    find_path,
    get_function,
    select_function_path,
    select_invocation_by_id,
    select_invocation_path,
)

MAX_QUEUE_POSITION: Final = 1000
"""Stands for every place from there on: counting a million who wait would take a second each time.
"""
_WITHOUT_POSITION = (QueueReason.NEW, QueueReason.BACKOFF)
"""One has not asked for a slot yet, the other does not want one at the moment."""
_WITHOUT_INPUT = defer(Invocation.input, raiseload=True)


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The parent of an invocation. Its input is not loaded."""

    invocation: Invocation
    function_name: str


@dataclass(frozen=True, kw_only=True)
class InvocationDetails:
    """An invocation with everything that is served about it."""

    context: FunctionContext
    invocation: Invocation
    parent: Parent | None
    executions: Sequence[Execution]
    """Oldest first."""
    queue_position: int | None
    """1 for the next one to get a slot, MAX_QUEUE_POSITION at most; None if it waits for none."""


def start_of(context: FunctionContext, invocation: Invocation) -> InvocationStart:
    """Give the facts that start an invocation's workflow, the first time or again."""
    return InvocationStart(
        invocation_id=InvocationId(invocation.id),
        project_name=context.project.name,
        version_id=VersionId(context.version.id),
        function_name=context.function.name,
        # In rows of servers that knew no pools, where the API started the invocation.
        pool=context.function.pool or invocation.pool,
        created_at=invocation.created_at,
        timeout_seconds=context.function.timeout_seconds,
        max_retries=context.function.max_retries,
        pauses=context.retry_pauses,
    )


async def create_invocation(
    session: AsyncSession,
    *,
    project_name: str,
    version_id: VersionId | None,
    function_name: str,
    input_: str,
    parent: ParentInvocationDefinition | None,
    idempotency_key: str | None = None,
) -> InvocationDetails:
    """Register an invocation. The API starts its workflow after the commit.

    It goes to its function's pool. With an idempotency key, the invocation that the function has
    for it already is given instead, in its present state.

    In a project that is being deleted, and below a cancelled parent, the new invocation carries a
    request for cancellation from the start.

    Raises:
        ProjectDoesNotExistError: there is no such project.
        VersionDoesNotExistError: the project has no such version, or none at all.
        FunctionDoesNotExistError: the version has no such function.
        ParentInvocationDoesNotExistError: the parent is not in this project and version.
        IdempotencyKeyIsUsedError: the key came with another input or parent before.
    """
    path = FunctionPath(
        project_name=project_name, version_id=version_id, function_name=function_name
    )
    if parent is None and idempotency_key is None:
        return await _create_plain(session, path, input_=input_)
    # The locks on project and parent let a cancellation either see this invocation or be seen.
    context = await get_function(session, path, lock_project=True)
    found_parent = None
    if parent is not None:
        found_parent = await _lock_parent(session, parent, context=context)
    cancelled = context.project.deletion_requested_at is not None or (
        found_parent is not None and found_parent.invocation.cancellation_requested_at is not None
    )
    digest = None if idempotency_key is None else request_digest(input_, parent)
    invocation_id = new_invocation_id()
    created_at = creation_time_of(invocation_id)
    invocation = Invocation(
        id=invocation_id,
        function_id=context.function.id,
        parent_id=None if found_parent is None else found_parent.invocation.id,
        input=input_,
        pool=context.pool,
        idempotency_key=idempotency_key,
        request_digest=digest,
        status=InvocationStatus.RUNNING,
        phase=Phase.QUEUED,
        queue_reason=QueueReason.NEW,
        phase_detail=None,
        cancellation_requested_at=created_at if cancelled else None,
        created_at=created_at,
        updated_at=created_at,
        terminated_at=None,
    )
    with _a_missing_function_named():
        is_new = True
        if idempotency_key is None:
            session.add(invocation)
            await session.flush()
        else:
            is_new = await insert_once(session, invocation)
    if not is_new:
        return await get_invocation(
            session,
            InvocationPath(
                project_name=project_name,
                version_id=VersionId(context.version.id),
                function_name=function_name,
                invocation_id=await find_repeated(session, invocation),
            ),
        )
    return InvocationDetails(
        context=context,
        invocation=invocation,
        parent=found_parent,
        executions=(),
        queue_position=await _queue_position(session, invocation),
    )


@dataclass(frozen=True)
class _NewInvocationRow(FunctionRow):
    """A row of `_insert_plain`; what it adds is None if nothing was inserted."""

    invocation_id: str | None
    cancellation_requested_at: datetime | None


async def _create_plain(
    session: AsyncSession, path: FunctionPath, *, input_: str
) -> InvocationDetails:
    """Find the function and insert the invocation in one statement: most are made so."""
    invocation_id = new_invocation_id()
    created_at = creation_time_of(invocation_id)
    new = {"id": invocation_id, "input": input_, "created_at": created_at}
    with _a_missing_function_named():
        row = await find_path(
            session,
            _insert_plain(newest_version=path.names_newest_version),
            {**path.parameters(), **{f"new_{name}": value for name, value in new.items()}},
            row=_NewInvocationRow,
        )
    context = row.found_function()
    if row.invocation_id is None:
        # The lock was waited for, and the deletion of the project was faster.
        raise ProjectDoesNotExistError
    invocation = Invocation(
        **new,
        pool=context.pool,
        function_id=context.function.id,
        status=InvocationStatus.RUNNING,
        phase=Phase.QUEUED,
        queue_reason=QueueReason.NEW,
        cancellation_requested_at=row.cancellation_requested_at,
        updated_at=created_at,
    )
    return InvocationDetails(
        context=context, invocation=invocation, parent=None, executions=(), queue_position=None
    )


@cache
def _insert_plain(*, newest_version: bool) -> AnySelect:
    """Select `_NewInvocationRow`.

    Parameters of the statement: those of the path, and `new_...` for `id`, `input` and
    `created_at`.
    """
    path = select_function_path(newest_version=newest_version)
    created_at = bindparam("new_created_at", type_=Invocation.created_at.type)
    values = {
        "id": bindparam("new_id", type_=Invocation.id.type),
        "function_id": Function.id,
        "input": bindparam("new_input", type_=Invocation.input.type),
        "pool": pool_of_function(),
        "status": constant(InvocationStatus.RUNNING),
        "phase": constant(Phase.QUEUED),
        "queue_reason": constant(QueueReason.NEW),
        "cancellation_requested_at": case((Project.deletion_requested_at.is_not(None), created_at)),
        "created_at": created_at,
        "updated_at": created_at,
    }
    found = (
        path.with_only_columns(*values.values())
        .where(Function.id.is_not(None))
        # A request to delete the project either sees this invocation, or is seen.
        .with_for_update(read=True, of=Project)
    )
    table = table_of(Invocation)
    made = (
        insert(table)
        .from_select(list(values), found)
        .returning(table.c.id, table.c.cancellation_requested_at)
        .cte("made")
    )
    return path.add_columns(made.c.id, made.c.cancellation_requested_at).outerjoin(made, true())


@contextmanager
def _a_missing_function_named() -> Iterator[None]:
    """Say which thing is missing if the deletion of the project has just come to the function."""
    try:
        yield
    except IntegrityError as error:
        if isinstance(error.orig, ForeignKeyViolation):
            raise FunctionDoesNotExistError from error
        raise


async def _lock_parent(
    session: AsyncSession, parent: ParentInvocationDefinition, *, context: FunctionContext
) -> Parent:
    # Lock order everywhere: function before invocation. The insert needs this lock anyway.
    await session.execute(
        select(Function.id)
        .where(Function.id == context.function.id)
        .with_for_update(read=True, key_share=True)
    )
    row = (
        await session.execute(
            select(Invocation, Function.name)
            .join(Function, Function.id == Invocation.function_id)
            .where(
                Invocation.id == parent.invocation_id,
                Function.version_id == context.version.id,
                Function.name == parent.function_name,
            )
            .options(_WITHOUT_INPUT)
            .with_for_update(read=True, of=Invocation)
        )
    ).one_or_none()
    if row is None:
        raise ParentInvocationDoesNotExistError
    invocation, function_name = row
    return Parent(invocation=invocation, function_name=function_name)


@dataclass(frozen=True)
class _DetailsRow(InvocationRow):
    """An invocation on its path, with its parent, if it has one."""

    parent: Invocation | None
    function_of_parent: str | None


async def get_invocation(session: AsyncSession, path: InvocationPath) -> InvocationDetails:
    """Give an invocation, as it is now even if the session has loaded it before.

    Raises:
        ProjectDoesNotExistError: there is no such project.
        VersionDoesNotExistError: the project has no such version, or none at all.
        FunctionDoesNotExistError: the version has no such function.
        InvocationDoesNotExistError: the function has no such invocation.
    """
    statement = _select_details(newest_version=path.names_newest_version)
    row = await find_path(session, statement, path.parameters(), row=_DetailsRow)
    return await _details(session, row)


async def get_invocation_by_id(
    session: AsyncSession, invocation_id: InvocationId
) -> InvocationDetails:
    """Give an invocation of any function, as `get_invocation` does.

    Raises:
        InvocationIdDoesNotExistError: there is none.
    """
    found = await session.execute(_select_details_by_id(), {"invocation_id": invocation_id})
    row = found.one_or_none()
    if row is None:
        raise InvocationIdDoesNotExistError
    return await _details(session, _DetailsRow(*row))


async def _details(session: AsyncSession, row: _DetailsRow) -> InvocationDetails:
    context, invocation = row.found_function(), row.found_invocation()
    parent = None
    if row.parent is not None and row.function_of_parent is not None:
        parent = Parent(invocation=row.parent, function_name=row.function_of_parent)
    executions = await session.scalars(_EXECUTIONS_OF, {"invocation_id": invocation.id})
    return InvocationDetails(
        context=context,
        invocation=invocation,
        parent=parent,
        executions=executions.all(),
        queue_position=await _queue_position(session, invocation),
    )


_OF_PARENT = aliased(Invocation)
_FUNCTION_OF_PARENT = aliased(Function)
_EXECUTIONS_OF = (
    select(Execution)
    .where(Execution.invocation_id == bindparam("invocation_id"))
    .order_by(Execution.attempt)
    .execution_options(populate_existing=True)
)


@cache
def _select_details(*, newest_version: bool) -> AnySelect:
    return _with_parent(select_invocation_path(newest_version=newest_version))


@cache
def _select_details_by_id() -> AnySelect:
    return _with_parent(select_invocation_by_id())


def _with_parent(path: AnySelect) -> AnySelect:
    """Make a statement for `InvocationRow` one for `_DetailsRow`."""
    return (
        path.add_columns(_OF_PARENT, _FUNCTION_OF_PARENT.name)
        .outerjoin(_OF_PARENT, _OF_PARENT.id == Invocation.parent_id)
        .outerjoin(_FUNCTION_OF_PARENT, _FUNCTION_OF_PARENT.id == _OF_PARENT.function_id)
        .options(defer(_OF_PARENT.input, raiseload=True))
        .execution_options(populate_existing=True)
    )


async def find_invocation(session: AsyncSession, path: InvocationPath) -> InvocationId:
    """Make sure that a path names an invocation; loads next to nothing.

    Raises:
        ProjectDoesNotExistError: there is no such project.
        VersionDoesNotExistError: the project has no such version, or none at all.
        FunctionDoesNotExistError: the version has no such function.
        InvocationDoesNotExistError: the function has no such invocation.
    """
    statement = select_invocation_path(newest_version=path.names_newest_version)
    row = await find_path(
        session, statement.options(_WITHOUT_INPUT), path.parameters(), row=InvocationRow
    )
    return InvocationId(row.found_invocation().id)


async def get_parent_id(session: AsyncSession, invocation_id: str) -> InvocationId | None:
    """Give the parent of an invocation; None if it has none or does not exist."""
    parent_id = await session.scalar(
        select(Invocation.parent_id).where(Invocation.id == invocation_id)
    )
    return None if parent_id is None else InvocationId(parent_id)


async def _queue_position(session: AsyncSession, invocation: Invocation) -> int | None:
    if invocation.phase != Phase.QUEUED or invocation.queue_reason in _WITHOUT_POSITION:
        return None
    ahead = (
        select(Invocation.id)
        .where(
            Invocation.function_id == invocation.function_id,
            Invocation.phase == Phase.QUEUED,
            Invocation.queue_reason.is_distinct_from(QueueReason.BACKOFF),
            Invocation.id < invocation.id,
        )
        # The order of an index. Without it, Postgres may search the whole table for the first ones.
        .order_by(Invocation.id)
        .limit(MAX_QUEUE_POSITION - 1)
        .subquery()
    )
    return (await session.scalar(select(func.count()).select_from(ahead)) or 0) + 1

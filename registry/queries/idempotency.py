"""Invocations that are created once, however often the request for them is repeated."""

import hashlib
import json

from sqlalchemy import inspect, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.contract.invocations import ParentInvocationDefinition
from core.errors import ProjectDoesNotExistError
from core.ids import InvocationId
from registry.database.tables import Invocation

_COLUMNS = inspect(Invocation).column_attrs.keys()


class IdempotencyKeyIsUsedError(Exception):
    """The key has come before, with another input or another parent."""


def request_digest(input_: str, parent: ParentInvocationDefinition | None) -> str:
    """Give the digest of what a request asks for: the same for equal requests only."""
    asked = [input_, None if parent is None else [parent.function_name, parent.invocation_id]]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


async def insert_once(session: AsyncSession, invocation: Invocation) -> bool:
    """Insert an invocation, unless its function has one with the same key already.

    A request that inserts the same key at this moment is waited for.

    Returns:
        Whether it was inserted. The object stays outside the session.
    """
    # What it does not set, the database does: None would be no default.
    values = inspect(invocation).dict
    inserted = await session.scalar(
        insert(Invocation)
        .values({column: values[column] for column in _COLUMNS if column in values})
        .on_conflict_do_nothing(
            index_elements=[Invocation.function_id, Invocation.idempotency_key],
            index_where=Invocation.idempotency_key.is_not(None),
        )
        .returning(Invocation.id)
    )
    return inserted is not None


async def find_repeated(session: AsyncSession, invocation: Invocation) -> InvocationId:
    """Name the invocation that a function has already for the key of a new one.

    Equal digests mean equal parents: a worker that asks for a child of its own gets no other.

    Raises:
        IdempotencyKeyIsUsedError: the key was used for another request.
        ProjectDoesNotExistError: the invocation is gone again, since its project is being deleted.
    """
    found = (
        await session.execute(
            select(Invocation.id, Invocation.request_digest).where(
                Invocation.function_id == invocation.function_id,
                Invocation.idempotency_key == invocation.idempotency_key,
            )
        )
    ).one_or_none()
    if found is None:
        raise ProjectDoesNotExistError
    if found.request_digest != invocation.request_digest:
        raise IdempotencyKeyIsUsedError
    return InvocationId(found.id)

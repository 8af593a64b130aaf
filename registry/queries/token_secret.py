"""The secret that worker tokens are derived from: random, and kept in the registry.

`CONTROL_PLANE_TOKEN_SECRET` takes its place. Servers before this one derived it from the API key.
In a database that they have used, workers are given such tokens for a day after the migration, so
that old and new programs understand one another while they are replaced. For two days more these
tokens are accepted: no execution takes longer than one.
"""

import secrets
import time
from datetime import timedelta
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.ids import ExecutionId
from core.settings import ApiKeySettings
from core.tokens import ExecutionTokens, execution_named_in, secret_derived_from
from registry.database.engine import Registry
from registry.database.tables import TokenSecret

_FRESH_SECONDS: Final = 5.0
"""For so long a secret that was read is used. It changes only if the tables are made again."""
_LOOK_AGAIN_SECONDS: Final = 1.0
"""Between two looks for another secret because of a token that does not fit."""
_ACCEPTED_FOR: Final = timedelta(days=2)
"""How long tokens of the older kind are good after the last one was given out."""


class WorkerTokens:
    """Derives and verifies worker tokens, for one process.

    Args:
        registry: where the secret is kept. Nothing is read before the first token.
        keys: the API keys, and the secret if it is not the registry's.
    """

    def __init__(self, registry: Registry, keys: ApiKeySettings) -> None:
        self._registry = registry
        self._keys = keys.api_keys()
        self._read: ExecutionTokens | None = None
        self._read_at = -float("inf")
        secret = keys.control_plane_token_secret
        self._given = None if secret is None else ExecutionTokens(secret.get_secret_value())

    async def derive(self, execution_id: ExecutionId) -> str:
        """Give the token of an execution.

        Raises:
            SQLAlchemyError: the registry cannot be asked.
        """
        return (await self._tokens(max_age=_FRESH_SECONDS)).derive(execution_id)

    async def verify(self, token: str) -> ExecutionId | None:
        """Give the execution that a token was derived for, or None for any other text.

        Raises:
            SQLAlchemyError: the registry cannot be asked; never for what has no token's form.
        """
        if execution_named_in(token) is None:
            return None
        known = (await self._tokens(max_age=float("inf"))).verify(token)
        if known is not None:
            return known
        # Perhaps the tables were deleted and made again.
        return (await self._tokens(max_age=_LOOK_AGAIN_SECONDS)).verify(token)

    async def _tokens(self, *, max_age: float) -> ExecutionTokens:
        if self._given is not None:
            return self._given
        if self._read is not None and time.monotonic() - self._read_at < max_age:
            return self._read
        began = time.monotonic()
        async with self._registry.autocommit() as session:
            tokens = await self._look(session)
        self._read, self._read_at = tokens, began
        return tokens

    async def _look(self, session: AsyncSession) -> ExecutionTokens:
        until = TokenSecret.derived_until
        statement = select(
            TokenSecret.secret, func.now() < until, func.now() < until + _ACCEPTED_FOR
        )
        row = (await session.execute(statement)).one_or_none()
        if row is None:
            # An operator has removed it, for another one to be made. Of several processes one makes
            # it, and all read the same.
            await session.execute(
                insert(TokenSecret).values(secret=secrets.token_hex(32)).on_conflict_do_nothing()
            )
            row = (await session.execute(statement)).one()
        secret, is_derived, accepts_derived = row
        derived = [secret_derived_from(key) for key in self._keys]
        if is_derived:
            return ExecutionTokens(*derived, secret)
        if accepts_derived:
            return ExecutionTokens(secret, *derived)
        return ExecutionTokens(secret)

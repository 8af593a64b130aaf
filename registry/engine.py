"""The connection pool, and the one way to open a transaction."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from sqlalchemy import URL, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from core.settings import RegistrySettings


def registry_url(settings: RegistrySettings) -> URL:
    """Build the SQLAlchemy address of the registry's database."""
    # libpq takes a socket folder only as a query parameter.
    query = {"host": settings.postgres_host, "port": str(settings.postgres_port)}
    return URL.create(
        "postgresql+psycopg",
        username=settings.postgres_user,
        password=settings.postgres_password.get_secret_value(),
        database=settings.postgres_db,
        query=query,
    )


def keep_values_out_of_errors(engine: Engine) -> None:
    """Leave users' data out of the texts of database errors, which reach logs and Temporal.

    `hide_parameters` alone does not: Postgres itself quotes keys and whole rows, in the DETAIL of
    a violated constraint. The SQLSTATE, the constraint's name and the rest stay in `orig.diag`.
    """
    engine.hide_parameters = True
    event.listen(engine, "handle_error", _drop_detail)


def _drop_detail(context: ExceptionContext) -> None:
    original = context.original_exception
    wrapped = context.sqlalchemy_exception
    if not isinstance(original, psycopg.Error) or original.diag.message_primary is None:
        return
    original.args = (original.diag.message_primary,)
    if wrapped is not None:
        wrapped.args = (f"({type(original).__qualname__}) {original.diag.message_primary}",)


class Registry:
    """Postgres, as one process uses it. Make one per process and `close` it at the end."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._engine: AsyncEngine = create_async_engine(
            registry_url(settings),
            pool_size=settings.postgres_pool_size,
            max_overflow=0,
            # Under load a request waits for its turn. That Postgres is away shows sooner, by the
            # refused or timed-out connection.
            pool_timeout=10,
            connect_args={"connect_timeout": 2, "application_name": "control-plane"},
        )
        keep_values_out_of_errors(self._engine.sync_engine)
        self.pool_size = settings.postgres_pool_size
        """Transactions that can be open at the same time."""
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        self._autocommit_sessions = async_sessionmaker(
            self._engine.execution_options(isolation_level="AUTOCOMMIT"), expire_on_commit=False
        )

    @property
    def engine(self) -> AsyncEngine:
        """The SQLAlchemy engine."""
        return self._engine

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Open one transaction: committed at the end of the block, rolled back on an error."""
        async with self._sessions() as session, session.begin():
            yield session

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[AsyncSession]:
        """Open a session in which each statement is a transaction of its own.

        For reads that need no lock, and for a single UPDATE: it saves two trips to Postgres. What a
        later statement sees may be newer than what an earlier one saw, as in a transaction of
        Postgres' default isolation.
        """
        async with self._autocommit_sessions() as session:
            yield session

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

"""The connection pool, and the one way to open a transaction."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import psycopg
from sqlalchemy import URL, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from core.settings import RegistrySettings
from registry.database.pulse import SILENT, Pulse, patiently


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


_CONNECTION: Final[dict[str, Any]] = {
    "application_name": "control-plane",
    # The limit if we are too busy to look; see `registry.database.pulse` for the one that counts.
    "connect_timeout": 10,
    # A machine or a network that is gone for one connection only is found out by the kernel: after
    # 1.5 seconds if something was sent, after 15 if not.
    "tcp_user_timeout": 1500,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


_STALLED_SECONDS: Final = 10.0


class Registry:
    """Postgres, as one process uses it. Make one per process and `close` it at the end.

    A caller that waits for a Postgres that is gone, or has fallen silent, gets an
    `OperationalError` within two seconds (`registry.database.pulse`).

    Args:
        settings: where Postgres is.
        turn_seconds: how long a transaction may wait for a connection while all are in use.
        stalled_seconds: how long Postgres waits for the next statement of a transaction before it
            gives the transaction's locks to others. Ours do nothing but speak to Postgres, so such
            a process has been stopped, or is cut off.
    """

    def __init__(
        self,
        settings: RegistrySettings,
        *,
        turn_seconds: float = 30,
        stalled_seconds: float = _STALLED_SECONDS,
    ) -> None:
        url = registry_url(settings)
        self._engine: AsyncEngine = create_async_engine(
            url,
            pool_size=settings.postgres_pool_size,
            max_overflow=0,
            pool_timeout=turn_seconds,
            async_creator=self._connect,
            # Most statements stand alone. To switch a connection takes as long as such a statement.
            isolation_level="AUTOCOMMIT",
        )
        _, parameters = self._engine.dialect.create_connect_args(url)
        self._parameters: dict[str, Any] = {**parameters, **_CONNECTION}
        self._pulse = Pulse(
            self._engine, partial(psycopg.AsyncConnection.connect, **self._parameters)
        )
        keep_values_out_of_errors(self._engine.sync_engine)
        # Before the pool's own queue, which lets the waiters wait on when a connection that was
        # being made has failed.
        self._turns = asyncio.Semaphore(settings.postgres_pool_size)
        self._turn_seconds = turn_seconds
        # Not a parameter of the connection: proxies before Postgres refuse those they do not know.
        self._greeting = (
            f"SET idle_in_transaction_session_timeout = {round(stalled_seconds * 1000)}"
        )
        self.pool_size = settings.postgres_pool_size
        """Transactions that can be open at the same time."""
        self._sessions = async_sessionmaker(
            self._engine.execution_options(isolation_level="READ COMMITTED"),
            expire_on_commit=False,
        )
        self._autocommit_sessions = async_sessionmaker(self._engine, expire_on_commit=False)

    @property
    def engine(self) -> AsyncEngine:
        """The SQLAlchemy engine."""
        return self._engine

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Open one transaction: committed at the end of the block, rolled back on an error."""
        async with self._turn(), self._sessions() as session, session.begin():
            yield session

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[AsyncSession]:
        """Open a session in which each statement is a transaction of its own.

        For reads that need no lock, and for a single UPDATE: it saves two trips to Postgres. What a
        later statement sees may be newer than what an earlier one saw, as in a transaction of
        Postgres' default isolation.
        """
        async with self._turn(), self._autocommit_sessions() as session:
            yield session

    async def close(self) -> None:
        """Close all connections."""
        self._pulse.close()
        await self._engine.dispose()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait until a connection is free or may be made; the turn is the block.

        Raises:
            PoolTimeoutError: all were in use for too long. That Postgres is away shows sooner.
            OperationalError: it is silent.
        """
        try:
            async with asyncio.timeout(self._turn_seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise PoolTimeoutError("all connections to Postgres are in use") from None
        try:
            with self._pulse.watched():
                yield
        finally:
            self._turns.release()

    async def _connect(self, *_: object, **__: object) -> psycopg.AsyncConnection[Any]:
        """Make a connection for the pool.

        Raises:
            psycopg.OperationalError: Postgres is away, or does not answer in time.
        """
        if self._pulse.silent:
            raise psycopg.OperationalError(SILENT)
        try:
            return await patiently(self._open_connection())
        except TimeoutError:
            raise psycopg.OperationalError(f"{SILENT} to a new connection") from None

    async def _open_connection(self) -> psycopg.AsyncConnection[Any]:
        connection = await psycopg.AsyncConnection.connect(**self._parameters, autocommit=True)
        try:
            await connection.execute(self._greeting)
            await connection.set_autocommit(False)
        except BaseException:
            await connection.close()
            raise
        return connection

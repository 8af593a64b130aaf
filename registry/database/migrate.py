"""Bringing the registry's schema up to date, and removing it.

The functions block; call them from asyncio programs through `asyncio.to_thread`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog
from alembic import command, op
from alembic.config import Config
from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import URL, Connection, create_engine, func, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from core.settings import RegistrySettings
from registry.database.engine import keep_values_out_of_errors, registry_url
from registry.database.tables import Base

logger = structlog.get_logger(__name__)

MIGRATIONS: Final = Path(__file__).parents[1] / "migrations"
"""Alembic's folder: its environment and the versions."""

LOCK_TIMEOUT: Final = "200ms"
"""How long a migration waits for a table, and so keeps requests to it waiting behind it.

It is far below the second after which Postgres ends a deadlock by failing the session that notices
first: a migration that has one table and waits for another may be in one with requests, and must
give way.
"""

STATEMENT_TIMEOUT: Final = "10min"
"""How long one statement of a migration may take, other than the building of an index."""

_PAUSE_SECONDS: Final = 1.0
"""Time for the requests that waited behind a migration, before it is tried again."""

_ADVISORY_LOCK: Final = 0x636F6E74726F6C
"""Any number, the same in all programs that change the schema ("control" in ASCII)."""

_SECONDS_BETWEEN_TRIES: Final = 0.2

_IN_USE: Final = (LockNotAvailable, DeadlockDetected)

# Alembic keeps the running migration in module globals: one at a time in one process.
_one_in_this_process = threading.Lock()


def alembic_config(connection: Connection | None = None) -> Config:
    """Give Alembic's configuration; it does not depend on the working directory."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def upgrade(
    target: RegistrySettings | URL,
    *,
    revision: str = "head",
    wait_seconds: float = 0.0,
    patience_seconds: float = 60.0,
) -> None:
    """Create or update all tables. Safe to run several times, also at the same time.

    The tables may be in use. A migration that does not get a table soon lets those that wait behind
    it go first, and is tried again.

    Args:
        target: the database.
        revision: the Alembic revision to stop at.
        wait_seconds: how long to wait for Postgres to accept connections.
        patience_seconds: how long to try to get tables that others use.

    Raises:
        OperationalError: Postgres did not answer in time, or a table stayed locked; the migrations
            before that one are done.
    """
    with _locked_connection(target, wait_seconds=wait_seconds) as connection:
        end = time.monotonic() + patience_seconds
        while True:
            try:
                command.upgrade(alembic_config(connection), revision)
                break
            except OperationalError as error:
                if not isinstance(error.orig, _IN_USE) or time.monotonic() >= end:
                    raise
                logger.info("registry_is_in_use", error=str(error.orig), again_in=_PAUSE_SECONDS)
            connection.rollback()
            time.sleep(_PAUSE_SECONDS)
        logger.info("registry_migrated", revision=revision)


def drop_all_tables(
    target: RegistrySettings | URL, *, wait_seconds: float = 0.0, lock_seconds: float = 10.0
) -> None:
    """Delete all tables with everything in them; harmless where there are none.

    Args:
        target: the database.
        wait_seconds: how long to wait for Postgres to accept connections.
        lock_seconds: how long to wait for a table that another transaction uses.

    Raises:
        OperationalError: Postgres did not answer in time, or a table stayed locked; then all
            tables are still there.
    """
    with _locked_connection(target, wait_seconds=wait_seconds) as connection:
        # A session that waits for a table's lock blocks all that come after: fail soon instead.
        timeout = f"{int(lock_seconds * 1000)}ms"
        connection.execute(text("SELECT set_config('lock_timeout', :t, false)"), {"t": timeout})
        Base.metadata.drop_all(connection)
        connection.execute(text("DROP TABLE IF EXISTS alembic_version"))
        connection.commit()
        logger.info("registry_tables_dropped")


@contextmanager
def _locked_connection(
    target: RegistrySettings | URL, *, wait_seconds: float
) -> Iterator[Connection]:
    url = registry_url(target) if isinstance(target, RegistrySettings) else target
    engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 5})
    keep_values_out_of_errors(engine)
    with _one_in_this_process, _connect(engine.connect, wait_seconds=wait_seconds) as connection:
        # Held by the session, so it outlasts the transactions of the single migrations and ends
        # with the connection whatever happens. Who waits holds no snapshot: an index that is built
        # concurrently waits for all older ones.
        take = select(func.pg_try_advisory_lock(_ADVISORY_LOCK))
        while not connection.scalar(take):
            connection.commit()
            time.sleep(_SECONDS_BETWEEN_TRIES)
        connection.commit()
        yield connection


def _connect(connect: Callable[[], Connection], *, wait_seconds: float) -> Connection:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            return connect()
        except OperationalError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_SECONDS_BETWEEN_TRIES)


def create_index_concurrently(name: str, on: str) -> None:
    """Build an index while the table is read and written.

    It is outside of the migration's transaction: what the migration does before is committed, so
    it should do nothing else.

    Args:
        name: of the index.
        on: what follows ON in SQL: the table, the columns, the condition.
    """
    with op.get_context().autocommit_block():
        # It waits for transactions that began before, and nothing waits behind it. On a large
        # table it takes its time.
        op.execute("SET lock_timeout = 0")
        op.execute("SET statement_timeout = 0")
        # A try that was interrupted has left it there, but invalid.
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {on}")
        op.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        op.execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'")

"""Alembic's environment: one transaction per migration, and no waiting for locks without end.

`registry.database.migrate` hands a connection over. Run by `alembic revision --autogenerate` there
is none, and the settings say where Postgres is.
"""

from alembic import context
from sqlalchemy import Connection, create_engine, text

from core.settings import RegistrySettings, load
from registry.database.engine import registry_url
from registry.database.migrate import LOCK_TIMEOUT, STATEMENT_TIMEOUT
from registry.database.tables import Base


def _run(connection: Connection) -> None:
    # A migration that waits for a lock blocks everything that comes after it: fail soon instead.
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _run_with_own_connection() -> None:
    engine = create_engine(registry_url(load(RegistrySettings)))
    with engine.connect() as connection:
        _run(connection)
    engine.dispose()


given_connection: Connection | None = context.config.attributes.get("connection")
if given_connection is not None:
    _run(given_connection)
else:
    _run_with_own_connection()

"""Indexes on tables that are in use, for migrations."""

from alembic import op

from registry.database.migrate import LOCK_TIMEOUT, STATEMENT_TIMEOUT


def create_index_concurrently(name: str, on: str) -> None:
    """Build an index while the table is read and written.

    It is outside of the migration's transaction: what the migration does before is committed, so
    it should do nothing else.

    Args:
        name: of the index.
        on: what follows ON in SQL: the table, the columns, the condition.
    """
    with op.get_context().autocommit_block():
        # It waits for transactions that began before, and nobody waits behind it. On a large table
        # it takes its time.
        op.execute("SET lock_timeout = 0")
        op.execute("SET statement_timeout = 0")
        # A try that was interrupted has left it there, but invalid.
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {on}")
        op.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        op.execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'")

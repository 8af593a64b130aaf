"""When log lines were copied from their worker.

Revision: 0005
Follows: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    # First without a default, which would rewrite all rows: this one is another for each row.
    # Both steps write to the catalogue only.
    op.add_column("log_chunks", sa.Column("copied_at", sa.DateTime(timezone=True)))
    op.alter_column("log_chunks", "copied_at", server_default=sa.func.clock_timestamp())


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.drop_column("log_chunks", "copied_at")

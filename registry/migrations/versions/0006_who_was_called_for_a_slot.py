"""An index of the invocations that have been called for a slot and have not come yet.

Revision: 0006
Follows: 0005
"""

from alembic import op

from registry.database.migrate import create_index_concurrently

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    create_index_concurrently(
        "ix_invocations_called",
        "invocations (function_id) WHERE phase = 'QUEUED' AND queue_reason = 'called'",
    )


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.drop_index("ix_invocations_called", table_name="invocations")

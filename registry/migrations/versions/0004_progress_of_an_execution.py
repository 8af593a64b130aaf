"""What a function has last reported about its progress.

Revision: 0004
Follows: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    # Without a default, this writes to the catalogue only, however many rows there are.
    op.add_column("executions", sa.Column("progress", sa.JSON()))


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.drop_column("executions", "progress")

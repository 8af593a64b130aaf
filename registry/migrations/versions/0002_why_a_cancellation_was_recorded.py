"""Why a cancellation was recorded, if it was not asked for through the API.

Revision: 0002
Follows: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    # Without a default, this writes to the catalogue only, however many rows there are.
    op.add_column("invocations", sa.Column("cancellation_reason", sa.Text(collation="C")))


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.drop_column("invocations", "cancellation_reason")

"""What is in the way of an invocation, and whether its workflow is still to be ended.

Revision: 0008
Follows: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    # A constant default and none: both write to the catalogue only, however many rows there are.
    op.add_column("invocations", sa.Column("trouble", sa.Text(collation="C")))
    op.add_column(
        "invocations",
        sa.Column("workflow_to_end", sa.Boolean(), server_default=sa.false(), nullable=False),
    )


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.drop_column("invocations", "workflow_to_end")
    op.drop_column("invocations", "trouble")

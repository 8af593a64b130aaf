"""Where the executions of a function run.

Revision: 0007
Follows: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    # Null means the version's default, as in all rows so far and in those that the code before goes
    # on writing: so no row is written, and this touches the catalogue only.
    op.add_column("functions", sa.Column("pool", sa.Text(collation="C")))


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.drop_column("functions", "pool")

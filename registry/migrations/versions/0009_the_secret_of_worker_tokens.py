"""The secret of worker tokens, which was derived from the API key before.

Revision: 0009
Follows: 0008
"""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    table = op.create_table(
        "token_secret",
        sa.Column("is_the_only_one", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("secret", sa.Text(collation="C"), nullable=False),
        sa.Column("derived_until", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("is_the_only_one", name=op.f("ck_token_secret_one_row")),
        sa.PrimaryKeyConstraint("is_the_only_one", name=op.f("pk_token_secret")),
    )
    # Servers that run the code before know of no secret but the derived one. They have a day to be
    # replaced; where there is no project, there are none.
    derived_until = sa.text(
        "(SELECT now() + interval '1 day' FROM projects LIMIT 1)",
    )
    op.execute(
        table.insert().values(secret=secrets.token_hex(32), derived_until=derived_until),
    )


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.drop_table("token_secret")

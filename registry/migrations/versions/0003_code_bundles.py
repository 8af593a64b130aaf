"""Code bundles: manifests, pieces, and which versions run them.

Revision: 0003
Follows: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TEXT = sa.Text(collation="C")


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.create_table(
        "bundles",
        sa.Column("project_id", _TEXT, nullable=False),
        sa.Column("digest", _TEXT, nullable=False),
        sa.Column("manifest", _TEXT, nullable=False),
        sa.Column("pieces", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("announced_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_bundles_project_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("project_id", "digest", name=op.f("pk_bundles")),
    )
    op.create_table(
        "bundle_pieces",
        sa.Column("project_id", _TEXT, nullable=False),
        sa.Column("sha256", _TEXT, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            name=op.f("fk_bundle_pieces_project_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("project_id", "sha256", name=op.f("pk_bundle_pieces")),
    )
    op.create_table(
        "version_bundles",
        sa.Column("version_id", _TEXT, nullable=False),
        sa.Column("digest", _TEXT, nullable=False),
        sa.Column("project_id", _TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "digest"],
            ["bundles.project_id", "bundles.digest"],
            name=op.f("fk_version_bundles_project_id_digest"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["versions.id"],
            name=op.f("fk_version_bundles_version_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version_id", "digest", name=op.f("pk_version_bundles")),
    )
    op.create_index(
        op.f("ix_version_bundles_project_id_digest"),
        "version_bundles",
        ["project_id", "digest"],
        unique=False,
    )


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.drop_table("version_bundles")
    op.drop_table("bundle_pieces")
    op.drop_table("bundles")

"""The first tables.

Revision: 0001
Follows:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TEXT = sa.Text(collation="C")
"""In byte order, whatever the database's locale: ids are compared with `<`."""


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.create_table(
        "projects",
        sa.Column("id", _TEXT, nullable=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deletion_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.UniqueConstraint("name", name=op.f("uq_projects_name")),
    )
    op.create_table(
        "versions",
        sa.Column("id", _TEXT, nullable=False),
        sa.Column("project_id", _TEXT, nullable=False),
        sa.Column("provisioner", _TEXT, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_versions_project_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_versions")),
    )
    op.create_index(
        op.f("ix_versions_project_id_id"), "versions", ["project_id", "id"], unique=False
    )
    op.create_table(
        "functions",
        sa.Column("id", _TEXT, nullable=False),
        sa.Column("version_id", _TEXT, nullable=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("docker_image", _TEXT, nullable=False),
        sa.Column("virtual_cpus", sa.Double(), nullable=False),
        sa.Column("memory_gbs", sa.Double(), nullable=False),
        sa.Column("max_concurrency", sa.Integer(), nullable=False),
        sa.Column("max_retries", sa.Integer(), nullable=False),
        sa.Column("timeout_seconds", sa.Integer(), nullable=False),
        sa.Column("retry_spec", postgresql.JSONB(), nullable=True),
        sa.Column(
            "preparation_status",
            sa.Enum(
                "PENDING", "READY", "FAILED", name="preparationstatus", native_enum=False, length=32
            ),
            server_default="PENDING",
            nullable=False,
        ),
        sa.Column(
            "prepared_details",
            postgresql.JSONB(),
            nullable=True,
        ),
        sa.Column("preparation_error", _TEXT, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["versions.id"],
            name=op.f("fk_functions_version_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_functions")),
    )
    op.create_index(
        "uq_functions_version_id_name",
        "functions",
        ["version_id", sa.literal_column("md5(name)")],
        unique=True,
    )
    op.create_index(
        "ix_functions_unprepared",
        "functions",
        ["version_id"],
        unique=False,
        postgresql_where=sa.text("preparation_status = 'PENDING'"),
    )
    op.create_table(
        "invocations",
        sa.Column("id", _TEXT, nullable=False),
        sa.Column("function_id", _TEXT, nullable=False),
        sa.Column("parent_id", _TEXT, nullable=True),
        sa.Column("input", _TEXT, nullable=False),
        sa.Column("provisioner", _TEXT, nullable=False),
        sa.Column("idempotency_key", _TEXT, nullable=True),
        sa.Column("request_digest", _TEXT, nullable=True),
        sa.Column(
            "status",
            sa.String(32),
            server_default="RUNNING",
            nullable=False,
        ),
        sa.Column(
            "phase",
            sa.Enum(
                "QUEUED",
                "PROVISIONING",
                "RUNNING",
                "CANCELLING",
                "SUCCEEDED",
                "FAILED",
                "CANCELLED",
                "TIMED_OUT",
                name="phase",
                native_enum=False,
                length=32,
            ),
            server_default="QUEUED",
            nullable=False,
        ),
        sa.Column(
            "queue_reason",
            sa.Enum(
                "new",
                "function_limit",
                "called",
                "function_not_ready",
                "backoff",
                name="queuereason",
                native_enum=False,
                length=32,
            ),
            server_default="new",
            nullable=True,
        ),
        sa.Column("called_by", _TEXT, nullable=True),
        sa.Column("called_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("phase_detail", _TEXT, nullable=True),
        sa.Column("cancellation_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("terminated_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["function_id"],
            ["functions.id"],
            name=op.f("fk_invocations_function_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["parent_id"],
            ["invocations.id"],
            name=op.f("fk_invocations_parent_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invocations")),
    )
    op.create_index(
        op.f("ix_invocations_function_id_status_id"),
        "invocations",
        ["function_id", "status", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_invocations_parent_id_function_id_status_id"),
        "invocations",
        ["parent_id", "function_id", "status", "id"],
        unique=False,
        postgresql_where=sa.text("parent_id IS NOT NULL"),
    )
    op.create_index(
        "ix_invocations_running_by_id",
        "invocations",
        ["id"],
        unique=False,
        postgresql_where=sa.text("status = 'RUNNING'"),
    )
    op.create_index(
        "uq_invocations_idempotency_key",
        "invocations",
        ["function_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index(
        "ix_invocations_waiting",
        "invocations",
        ["function_id", "id"],
        unique=False,
        postgresql_where=sa.text("phase = 'QUEUED'"),
    )
    op.create_table(
        "executions",
        sa.Column("id", _TEXT, nullable=False),
        sa.Column("invocation_id", _TEXT, nullable=False),
        sa.Column("function_id", _TEXT, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column(
            "worker_status",
            sa.Enum(
                "PENDING",
                "PROVISIONING",
                "RUNNING",
                "TERMINATED",
                name="workerstatus",
                native_enum=False,
                length=32,
            ),
            server_default="PENDING",
            nullable=False,
        ),
        sa.Column("provisioner", _TEXT, nullable=False),
        sa.Column("worker", postgresql.JSONB(), nullable=True),
        sa.Column(
            "worker_details",
            postgresql.JSONB(),
            nullable=True,
        ),
        sa.Column("provision_called_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("log_complete", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("termination_signal_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "outcome",
            sa.String(32),
            nullable=True,
        ),
        sa.Column("output", _TEXT, nullable=True),
        sa.Column("error_message", _TEXT, nullable=True),
        sa.Column(
            "cause",
            sa.Enum(
                "succeeded",
                "user_error",
                "aborted",
                "cancelled",
                "timed_out",
                "worker_lost",
                "out_of_memory",
                "provisioning_failed",
                name="cause",
                native_enum=False,
                length=32,
            ),
            nullable=True,
        ),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("terminated_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "outcome IS NULL OR started_at IS NOT NULL",
            name=op.f("ck_executions_outcome_only_after_start"),
        ),
        sa.ForeignKeyConstraint(
            ["invocation_id"],
            ["invocations.id"],
            name=op.f("fk_executions_invocation_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_executions")),
        sa.UniqueConstraint(
            "invocation_id", "attempt", name=op.f("uq_executions_invocation_id_attempt")
        ),
    )
    op.create_index(
        "ix_executions_one_open",
        "executions",
        ["invocation_id"],
        unique=True,
        postgresql_where=sa.text("worker_status <> 'TERMINATED'"),
    )
    op.create_index(
        "ix_executions_open_by_function",
        "executions",
        ["function_id"],
        unique=False,
        postgresql_where=sa.text("worker_status <> 'TERMINATED'"),
    )
    op.create_table(
        "log_chunks",
        sa.Column("execution_id", _TEXT, nullable=False),
        sa.Column("first_line", sa.Integer(), nullable=False),
        sa.Column("next_line", sa.Integer(), nullable=False),
        sa.Column("lines", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("next_offset", _TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["execution_id"],
            ["executions.id"],
            name=op.f("fk_log_chunks_execution_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("execution_id", "first_line", name=op.f("pk_log_chunks")),
    )


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.drop_table("log_chunks")
    op.drop_table("executions")
    op.drop_table("invocations")
    op.drop_table("functions")
    op.drop_table("versions")
    op.drop_table("projects")

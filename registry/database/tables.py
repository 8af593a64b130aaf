"""The tables of the registry, as SQLAlchemy mapped classes.

Ids are prefixed, time-ordered texts (`core.ids`); `created_at` is read out of the id, so both give
one order. Enums are stored by value as text. Relationships are not mapped: each query names what
it loads.

Some columns have an older name in the database than here. A rename would break the programs that
run the code before, which go on while a server is upgraded.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, cast

from sqlalchemy import (
    ARRAY,
    JSON,
    CheckConstraint,
    ColumnElement,
    DateTime,
    Double,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    false,
    func,
    literal_column,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from core.states import (
    Cause,
    InvocationStatus,
    Outcome,
    Phase,
    PreparationStatus,
    QueueReason,
    WorkerStatus,
)


def _text_enum(enum_class: type[Any]) -> Enum:
    # Text without a CHECK constraint: a new cause or phase needs no migration that locks a table.
    return Enum(
        enum_class,
        native_enum=False,
        create_constraint=False,
        length=32,
        values_callable=lambda members: [member.value for member in members],
    )


class Base(DeclarativeBase):
    """Declarative base: names every constraint, so migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads this class attribute as declared
        # Byte order: the same on every server, and the fastest. Ids are compared with `<`.
        str: Text(collation="C"),
        datetime: DateTime(timezone=True),
        float: Double,
        dict[str, Any]: JSONB(none_as_null=True),
        list[str]: ARRAY(Text),
        PreparationStatus: _text_enum(PreparationStatus),
        InvocationStatus: _text_enum(InvocationStatus),
        WorkerStatus: _text_enum(WorkerStatus),
        Outcome: _text_enum(Outcome),
        Phase: _text_enum(Phase),
        QueueReason: _text_enum(QueueReason),
        Cause: _text_enum(Cause),
    }


class Project(Base):
    """A codebase. Addressed by name; the id keeps a deleted and re-created name apart."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    deletion_requested_at: Mapped[datetime | None]


class Version(Base):
    """One immutable state of a project."""

    __tablename__ = "versions"
    __table_args__ = (Index(None, "project_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    # Where those of its functions run that name no pool.
    default_pool: Mapped[str] = mapped_column("provisioner", key="default_pool")
    created_at: Mapped[datetime]


class Bundle(Base):
    """A code bundle that was announced for a project; its pieces may still be missing."""

    __tablename__ = "bundles"

    project_id: Mapped[str] = mapped_column(
        ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True
    )
    digest: Mapped[str] = mapped_column(primary_key=True)
    # JSON in the exact form that the digest is made of.
    manifest: Mapped[str]
    # The distinct pieces that the manifest names.
    pieces: Mapped[list[str]]
    # The last time that a client wanted to upload it: without a version it goes after a while.
    announced_at: Mapped[datetime]


class BundlePiece(Base):
    """Up to 1 MiB of the content of a project's files, named by its SHA-256."""

    __tablename__ = "bundle_pieces"

    project_id: Mapped[str] = mapped_column(
        ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True
    )
    sha256: Mapped[str] = mapped_column(primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class VersionBundle(Base):
    """That a version's functions run a code bundle, which stays as long as the version."""

    __tablename__ = "version_bundles"
    __table_args__ = (
        ForeignKeyConstraint(
            ["project_id", "digest"],
            ["bundles.project_id", "bundles.digest"],
            ondelete="CASCADE",
        ),
        Index(None, "project_id", "digest"),
    )

    version_id: Mapped[str] = mapped_column(
        ForeignKey("versions.id", ondelete="CASCADE"), primary_key=True
    )
    digest: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str]


class Function(Base):
    """One function of a version, with its resource spec and execution spec."""

    __tablename__ = "functions"
    __table_args__ = (
        # By digest: a name of 1,023 characters may be larger than an index entry can be.
        Index("uq_functions_version_id_name", "version_id", text("md5(name)"), unique=True),
        # What is still to be prepared: the sweep looks for versions that no workflow prepares.
        Index(
            "ix_functions_unprepared",
            "version_id",
            postgresql_where=text("preparation_status = 'PENDING'"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id", ondelete="CASCADE"))
    name: Mapped[str]
    docker_image: Mapped[str]
    virtual_cpus: Mapped[float]
    memory_gbs: Mapped[float]
    max_concurrency: Mapped[int]
    max_retries: Mapped[int]
    timeout_seconds: Mapped[int]
    # Where its executions run: for now the name of a provisioner kind. Null in rows of servers that
    # knew no pools: the version's default. `pool_of_function` says so in SQL.
    pool: Mapped[str | None]
    # The fields of core.retries.RetryPauses; null for the shortest pauses.
    retry_spec: Mapped[dict[str, Any] | None]
    preparation_status: Mapped[PreparationStatus] = mapped_column(
        server_default=PreparationStatus.PENDING.value
    )
    # The contract's prepared_function_details {type, identifier}; null for the process provisioner.
    prepared_details: Mapped[dict[str, Any] | None]
    preparation_error: Mapped[str | None]
    created_at: Mapped[datetime]


class Invocation(Base):
    """One call of a function."""

    __tablename__ = "invocations"
    __table_args__ = (
        # Pages of a function's invocations (registry.queries.invocation_pages); its running ones.
        Index(None, "function_id", "status", "id"),
        # The same below one parent; the children of an invocation.
        Index(
            None,
            "parent_id",
            "function_id",
            "status",
            "id",
            postgresql_where=text("parent_id IS NOT NULL"),
        ),
        # Who waits for a slot of a function, in order of arrival.
        Index(
            "ix_invocations_waiting",
            "function_id",
            "id",
            postgresql_where=text("phase = 'QUEUED'"),
        ),
        # Those that are offered a slot and have not asked for it yet: few, however many wait.
        Index(
            "ix_invocations_called",
            "function_id",
            postgresql_where=text("phase = 'QUEUED' AND queue_reason = 'called'"),
        ),
        # All running ones, in order of creation: the sweep goes through them.
        Index("ix_invocations_running_by_id", "id", postgresql_where=text("status = 'RUNNING'")),
        Index(
            "uq_invocations_idempotency_key",
            "function_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    function_id: Mapped[str] = mapped_column(ForeignKey("functions.id", ondelete="CASCADE"))
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("invocations.id", ondelete="CASCADE"))
    input: Mapped[str]
    # The function's, so that the sweep of a pool finds it without a join.
    pool: Mapped[str] = mapped_column("provisioner", key="pool")
    # The caller's key and the digest of what it asked for, to recognise a repeated request.
    idempotency_key: Mapped[str | None]
    request_digest: Mapped[str | None]
    status: Mapped[InvocationStatus] = mapped_column(server_default=InvocationStatus.RUNNING.value)
    phase: Mapped[Phase] = mapped_column(server_default=Phase.QUEUED.value)
    queue_reason: Mapped[QueueReason | None] = mapped_column(server_default=QueueReason.NEW.value)
    # Whose transaction has offered it a slot (an execution's, invocation's, function's or sweep's
    # id), so that the same transition, run again after a crash, wakes the same invocations.
    offered_by: Mapped[str | None] = mapped_column("called_by", key="offered_by")
    # Since when it is offered one: an invocation that does not come is woken again.
    offered_at: Mapped[datetime | None] = mapped_column("called_at", key="offered_at")
    # Free text for a person: why it waits, why it ended.
    phase_detail: Mapped[str | None]
    # What is in the way while it is in this phase, in the words of the provisioner.
    # `registry.explanations` puts the two together.
    trouble: Mapped[str | None]
    # It has ended with its project, and its workflow is still to be ended.
    workflow_to_end: Mapped[bool] = mapped_column(server_default=false())
    cancellation_requested_at: Mapped[datetime | None]
    # Words for `phase_detail`, if it was not asked for through the API.
    cancellation_reason: Mapped[str | None]
    created_at: Mapped[datetime]
    # Bumped on cancel, on creation of an execution and on termination; never after that.
    updated_at: Mapped[datetime]
    terminated_at: Mapped[datetime | None]


class Execution(Base):
    """One attempt at an invocation: one Temporal run, one worker."""

    __tablename__ = "executions"
    __table_args__ = (
        UniqueConstraint("invocation_id", "attempt"),
        CheckConstraint(
            "outcome IS NULL OR started_at IS NOT NULL", name="outcome_only_after_start"
        ),
        # At most one live attempt of an invocation, whatever else goes wrong.
        Index(
            "ix_executions_one_open",
            "invocation_id",
            unique=True,
            postgresql_where=text("worker_status <> 'TERMINATED'"),
        ),
        # The slots in use of a function.
        Index(
            "ix_executions_open_by_function",
            "function_id",
            postgresql_where=text("worker_status <> 'TERMINATED'"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    invocation_id: Mapped[str] = mapped_column(ForeignKey("invocations.id", ondelete="CASCADE"))
    # The invocation's, and held by its foreign key. One of its own would cost a scan of this table
    # for each function that is deleted, or one more index on the way of each execution.
    function_id: Mapped[str]
    attempt: Mapped[int] = mapped_column(Integer)
    worker_status: Mapped[WorkerStatus] = mapped_column(server_default=WorkerStatus.PENDING.value)
    # The function's when it was opened: that pool's provisioner makes, watches and ends the worker.
    pool: Mapped[str] = mapped_column("provisioner", key="pool")
    # What the provisioner needs to find its worker again (JSON made by the provisioner).
    worker: Mapped[dict[str, Any] | None]
    # The contract's worker_details {type, identifier, logs_identifier}; null for process.
    worker_details: Mapped[dict[str, Any] | None]
    # Set before the first call of a provisioner that can only end workers it has told us about.
    provision_called_at: Mapped[datetime | None]
    # No line will follow those in log_chunks, although the worker may still run.
    log_complete: Mapped[bool] = mapped_column(server_default=false())
    termination_signal_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    outcome: Mapped[Outcome | None]
    output: Mapped[str | None]
    error_message: Mapped[str | None]
    # Kept as it came, so not JSONB, which would write 1e300 out.
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    cause: Mapped[Cause | None]
    exit_code: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    terminated_at: Mapped[datetime | None]


class LogChunk(Base):
    """Some consecutive log lines of one execution, copied from its worker while it runs."""

    __tablename__ = "log_chunks"

    execution_id: Mapped[str] = mapped_column(
        ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True
    )
    # The index of the chunk's first line in the execution's log, from 0.
    first_line: Mapped[int] = mapped_column(Integer, primary_key=True)
    # first_line of the next chunk, so a page finds its chunk through the primary key.
    next_line: Mapped[int] = mapped_column(Integer)
    lines: Mapped[list[str]]
    # Where the provisioner goes on reading after this chunk, in its own words.
    next_offset: Mapped[str]
    # When it was copied, soon after its lines were written; null in chunks of older servers.
    copied_at: Mapped[datetime | None] = mapped_column(server_default=func.clock_timestamp())


class TokenSecret(Base):
    """The secret that worker tokens are derived from, in the only row. The migration made it."""

    __tablename__ = "token_secret"
    __table_args__ = (CheckConstraint("is_the_only_one", name="one_row"),)

    is_the_only_one: Mapped[bool] = mapped_column(primary_key=True, server_default=true())
    secret: Mapped[str]
    # Until then workers are given tokens as servers before this table derived them, since some of
    # these may still run. Null in a database that no such server has used.
    derived_until: Mapped[datetime | None]


def pool_of_function() -> ColumnElement[str]:
    """Give where a function's executions run, for a statement that joins functions and versions."""
    return func.coalesce(Function.pool, Version.default_pool)


def table_of(mapped: type[Base]) -> Table:
    """Give the table of a class, for statements of which a session has to know nothing.

    An UPDATE of the class itself looks through the session for what it has changed.
    """
    return cast("Table", mapped.__table__)


def constant(member: StrEnum) -> ColumnElement[Any]:
    """Give a value as part of a statement's text, for conditions that partial indexes have.

    A prepared statement that had it as a parameter would be planned each time.
    """
    return literal_column(f"'{member.value}'")

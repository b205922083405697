"""The tables, and every invariant that a constraint can hold.

    workspaces ──< models                                      a model's name is unique within its workspace
    models ──< versions ──< files >── contents >──< blobs      a file's content is stretches of blobs, in order;
       │           ^                     layout                a blob is one object of the store, under a key of ours
       ├──< pointers   (model, name) -> at most one version *of the same model*; generation only grows
       └──< moves      every move of every pointer, insert-only, each row hashed with the one before
    uploads ──< leases >── blobs                               what an upload brings or reuses stays until it ends
    trash                                                      keys to delete, unless a blob takes them first
    events, feed                                               the change feed and its one counter
    access_tables.py                                           who may do what: principals, groups, grants, tokens
    facts_tables.py                                            what is said of a version: tags, metrics, its card …
    deployment_tables.py                                       what serving adapters say that they run
    policy_tables.py                                           what promotions need: policies, requests, what checks found
    webhook_tables.py                                          who is told of events: webhooks, deliveries, attempts
    audit, audit_head                                          who did or tried what; each row hashed with the one before

Triggers (see migrations/) refuse to change or remove versions, files, contents, moves and audit rows, and events before they
are trimmed. An audit row that does not follow the head is refused as well, and one that does becomes the head. On PostgreSQL
a trigger tells each new revision of the feed to all processes.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from registry.database import UtcDateTime, utc_now

Json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
# SQLite gives rowid semantics only to INTEGER, PostgreSQL needs 64 bits.
BigInteger = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# What begins with a prefix is then a range of an index, in whatever language the database sorts.
_ByteOrder = sa.String(512).with_variant(sa.String(512, collation="C"), "postgresql")


def _is_digest(column: str) -> str:
    # The two databases share no regular expressions; trimming hex digits from hex digits leaves nothing.
    prefix, digits = f"substr({column}, 1, 7)", f"substr({column}, 8)"
    return f"length({column}) = 71 AND {prefix} = 'sha256:' AND trim({digits}, '0123456789abcdef') = ''"


class Base(DeclarativeBase):
    if TYPE_CHECKING:
        __table__: ClassVar[sa.Table]
    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime(), dict[str, Any]: Json, list[Any]: Json}  # noqa: RUF012 - SQLAlchemy's own idiom


DEFAULT_WORKSPACE = 1
"""The id of the workspace "default", which always exists."""


class WorkspaceRow(Base):
    """Names and access rules of its own. Counters are kept with every change; limits are None where there is none."""

    __tablename__ = "workspaces"
    __table_args__ = (
        sa.CheckConstraint("length(name) BETWEEN 1 AND 64", "name"),
        sa.CheckConstraint("versions >= 0 AND bytes >= 0", "counters"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(64), unique=True)
    versions: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    max_versions: Mapped[int | None] = mapped_column(BigInteger)
    max_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_requests_per_minute: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=utc_now())
    created_by: Mapped[str] = mapped_column(sa.String(128))


class ModelRow(Base):
    __tablename__ = "models"
    __table_args__ = (
        sa.CheckConstraint("next_number >= 1", "next_number"),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 128", "name"),
        sa.UniqueConstraint("workspace_id", "name"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    workspace_id: Mapped[int] = mapped_column(
        sa.ForeignKey(WorkspaceRow.id), default=DEFAULT_WORKSPACE, server_default="1"
    )
    name: Mapped[str] = mapped_column(sa.String(128))
    description: Mapped[str] = mapped_column(sa.Text, default="")
    next_number: Mapped[int] = mapped_column(default=1, server_default="1")
    created_at: Mapped[datetime] = mapped_column(server_default=utc_now())
    # Why no pointer of it moves at present; None: they do.
    frozen: Mapped[str | None] = mapped_column(sa.Text)


class VersionRow(Base):
    __tablename__ = "versions"
    __table_args__ = (
        sa.CheckConstraint("number >= 1", "number"),
        sa.CheckConstraint("fact_revision >= 0", "fact_revision"),
        sa.CheckConstraint(_is_digest("manifest_digest"), "manifest_digest"),
        # What a search looks for, in the order of its pages.
        sa.Index("ix_versions_created_at", "created_at", "model_id", "number"),
        sa.Index("ix_versions_created_by", "created_by", "model_id", "number"),
        sa.Index("ix_versions_format", "format", "model_id", "number"),
    )

    model_id: Mapped[int] = mapped_column(sa.ForeignKey(ModelRow.id), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    manifest_digest: Mapped[str] = mapped_column(sa.String(71))
    format: Mapped[str] = mapped_column(sa.String(64))
    variants: Mapped[list[Any]]
    signature: Mapped[dict[str, Any] | None]
    example: Mapped[str | None] = mapped_column(sa.Text)
    description: Mapped[str] = mapped_column(sa.Text)
    upload_id: Mapped[str] = mapped_column(sa.ForeignKey("uploads.id"), unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=utc_now())
    created_by: Mapped[str] = mapped_column(sa.String(128))
    # Only what follows may change: production and staging are pointers, "archived" is a property.
    archived: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    # Soft deletion: a tombstone first; `purged_at` says that the bytes are no longer held for it.
    deleted_at: Mapped[datetime | None]
    deleted_by: Mapped[str | None] = mapped_column(sa.String(128))
    purged_at: Mapped[datetime | None]
    # Why this version must not be deleted, whatever else happens; None: nothing forbids it.
    legal_hold: Mapped[str | None] = mapped_column(sa.Text)
    # How often its facts (facts_tables.py) were changed: whoever approved of it has approved of them at that point.
    fact_revision: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")


class UploadRow(Base):
    __tablename__ = "uploads"
    __table_args__ = (sa.Index("uq_uploads_idempotency_key", "created_by", "idempotency_key", unique=True),)

    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True)
    workspace_id: Mapped[int] = mapped_column(BigInteger, default=DEFAULT_WORKSPACE, server_default="1")
    model: Mapped[str] = mapped_column(sa.String(128), index=True)
    created_at: Mapped[datetime] = mapped_column(server_default=utc_now())
    created_by: Mapped[str] = mapped_column(sa.String(128))
    expires_at: Mapped[datetime]
    # The caller's name for this upload: the same key and the same request are the same upload.
    idempotency_key: Mapped[str | None] = mapped_column(sa.String(128))
    request_digest: Mapped[str | None] = mapped_column(sa.String(71))


class BlobRow(Base):
    """One object of the store: a whole file, or a pack of small files or of chunks of large ones.

    expected ──seal──> live ──sweep──> condemned ──sweep──> (no row; its key is in the trash)
    """

    __tablename__ = "blobs"
    __table_args__ = (
        sa.CheckConstraint(_is_digest("digest"), "digest"),
        sa.CheckConstraint("size >= 0", "size"),
        sa.CheckConstraint("state IN ('expected', 'live', 'condemned')", "state"),
        sa.CheckConstraint("(state = 'condemned') = (condemned_at IS NOT NULL)", "condemned_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    digest: Mapped[str] = mapped_column(sa.String(71), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    # Used once: nothing that happens to a key later, such as a slow delete, can touch other bytes.
    key: Mapped[str] = mapped_column(sa.String(256), unique=True)
    state: Mapped[str] = mapped_column(sa.String(9), index=True)
    upload_id: Mapped[str | None] = mapped_column(sa.ForeignKey(UploadRow.id), index=True)
    damaged: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    created_at: Mapped[datetime] = mapped_column(server_default=utc_now())
    condemned_at: Mapped[datetime | None]


class ContentRow(Base):
    """The bytes of a file: `layout` says which stretches of which blobs, concatenated, have this size and digest.

    {"layout": 1, "segments": [[blob id, offset, length], …]}; the number is the format's version.
    """

    __tablename__ = "contents"
    __table_args__ = (
        sa.CheckConstraint(_is_digest("digest"), "digest"),
        sa.CheckConstraint("size >= 0", "size"),
        sa.UniqueConstraint("id", "digest"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    digest: Mapped[str] = mapped_column(sa.String(71), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    layout: Mapped[dict[str, Any]]
    # Of a large file: its chunks, as chunks.py lists them, once the registry has read it.
    chunks: Mapped[bytes | None] = mapped_column(sa.LargeBinary)
    # When the registry, or the store for it, found that the bytes have the digest.
    verified_at: Mapped[datetime | None]
    # Another process is reading it to verify it, until then.
    claimed_until: Mapped[datetime | None]
    damaged: Mapped[bool] = mapped_column(default=False, server_default=sa.false())


class ContentBlobRow(Base):
    """Which blobs a content needs. A blob with a row here cannot be removed."""

    __tablename__ = "content_blobs"

    content_id: Mapped[int] = mapped_column(sa.ForeignKey(ContentRow.id), primary_key=True)
    blob_id: Mapped[int] = mapped_column(sa.ForeignKey(BlobRow.id), primary_key=True, index=True)


class LeaseRow(Base):
    """An upload brings this blob, or was told that it may reuse it: it is not swept before the upload ends."""

    __tablename__ = "leases"

    upload_id: Mapped[str] = mapped_column(sa.ForeignKey(UploadRow.id), primary_key=True)
    blob_id: Mapped[int] = mapped_column(sa.ForeignKey(BlobRow.id), primary_key=True, index=True)


class TrashRow(Base):
    """A key to delete from the store. Each key begins here, before its first byte is written, and leaves when sealed."""

    __tablename__ = "trash"

    key: Mapped[str] = mapped_column(sa.String(256), primary_key=True)
    not_before: Mapped[datetime] = mapped_column(index=True)
    # From now on the object may be gone at any moment: no blob can take the key any more.
    claimed: Mapped[bool] = mapped_column(default=False, server_default=sa.false())


class FileRow(Base):
    __tablename__ = "files"
    __table_args__ = (
        sa.ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),
        sa.ForeignKeyConstraint(["content_id", "digest"], ["contents.id", "contents.digest"]),
    )

    model_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str] = mapped_column(sa.String(1024), primary_key=True)
    digest: Mapped[str] = mapped_column(sa.String(71), index=True)
    content_id: Mapped[int] = mapped_column(BigInteger, index=True)


class PointerRow(Base):
    __tablename__ = "pointers"
    __table_args__ = (
        sa.ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),
        sa.CheckConstraint("generation >= 1", "generation"),
        sa.CheckConstraint("(kind = 'stage') = (name IN ('production', 'staging'))", "kind"),
        sa.CheckConstraint("kind IN ('stage', 'alias')", "kind_known"),
        # A version is in one stage at a time.
        sa.Index(
            "uq_pointers_one_stage_per_version",
            "model_id",
            "number",
            unique=True,
            sqlite_where=sa.text("kind = 'stage'"),
            postgresql_where=sa.text("kind = 'stage'"),
        ),
        sa.Index("ix_pointers_name", "name", "model_id", "number"),
    )

    model_id: Mapped[int] = mapped_column(sa.ForeignKey(ModelRow.id), primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(8))
    number: Mapped[int | None]
    generation: Mapped[int]
    moved_at: Mapped[datetime]
    moved_by: Mapped[str] = mapped_column(sa.String(128))


class MoveRow(Base):
    __tablename__ = "moves"
    __table_args__ = (
        sa.ForeignKeyConstraint(["model_id", "from_number"], ["versions.model_id", "versions.number"]),
        sa.ForeignKeyConstraint(["model_id", "to_number"], ["versions.model_id", "versions.number"]),
        sa.CheckConstraint("generation >= 1", "generation"),
        sa.CheckConstraint("kind IN ('promote', 'rollback', 'vacate')", "kind"),
        sa.CheckConstraint("(kind = 'vacate') = (to_number IS NULL)", "vacate"),
        sa.CheckConstraint(_is_digest("digest"), "digest"),
        # A history cannot fork: no two moves follow the same one.
        sa.UniqueConstraint("model_id", "pointer", "previous_digest"),
    )

    model_id: Mapped[int] = mapped_column(sa.ForeignKey(ModelRow.id), primary_key=True)
    pointer: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    generation: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    from_number: Mapped[int | None]
    to_number: Mapped[int | None]
    kind: Mapped[str] = mapped_column(sa.String(8))
    actor: Mapped[str] = mapped_column(sa.String(128))
    reason: Mapped[str] = mapped_column(sa.Text)
    at: Mapped[datetime]
    digest: Mapped[str] = mapped_column(sa.String(71))
    previous_digest: Mapped[str] = mapped_column(sa.String(71))


class EventRow(Base):
    __tablename__ = "events"
    __table_args__ = (sa.Index(None, "workspace_id", "model", "revision"),)

    revision: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(sa.String(32))
    workspace_id: Mapped[int] = mapped_column(BigInteger, default=DEFAULT_WORKSPACE, server_default="1")
    model: Mapped[str] = mapped_column(sa.String(128))
    data: Mapped[dict[str, Any]]
    at: Mapped[datetime] = mapped_column(server_default=utc_now())


class FeedRow(Base):
    """One row: the newest revision. Its lock makes revisions appear in the order in which they were given out."""

    __tablename__ = "feed"
    __table_args__ = (
        sa.CheckConstraint("id = 1", "single_row"),
        sa.CheckConstraint("trimmed BETWEEN 0 AND revision", "trimmed"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(BigInteger)
    # Up to here events are too old to be kept, but for the newest of them of each model.
    trimmed: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")


class AuditRow(Base):
    """Something that was done or refused. audit.py says what the digest covers: everything else here."""

    __tablename__ = "audit"
    __table_args__ = (
        sa.CheckConstraint("sequence >= 1", "sequence"),
        sa.CheckConstraint("outcome IN ('done', 'denied')", "outcome"),
        sa.CheckConstraint(_is_digest("previous_digest"), "previous_digest"),
        sa.CheckConstraint(_is_digest("digest"), "digest"),
        # What auditors ask for, each newest first.
        sa.Index(None, "workspace", "sequence"),
        sa.Index(None, "actor", "sequence"),
        sa.Index(None, "resource", "sequence"),
        sa.Index(None, "at"),
    )

    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    workspace: Mapped[str] = mapped_column(sa.String(64))
    actor: Mapped[str] = mapped_column(sa.String(256))
    token_id: Mapped[str | None] = mapped_column(sa.String(32))
    action: Mapped[str] = mapped_column(sa.String(64))
    resource: Mapped[str] = mapped_column(_ByteOrder)
    outcome: Mapped[str] = mapped_column(sa.String(6))
    data: Mapped[dict[str, Any]] = mapped_column(sa.JSON())  # as it was written: JSONB rewrites numbers
    request_id: Mapped[str] = mapped_column(sa.String(64))
    previous_digest: Mapped[str] = mapped_column(sa.String(71))
    digest: Mapped[str] = mapped_column(sa.String(71))


class AuditHeadRow(Base):
    """One row: where the audit trail ends. Its lock makes appends queue."""

    __tablename__ = "audit_head"
    __table_args__ = (
        sa.CheckConstraint("id = 1", "single_row"),
        sa.CheckConstraint("sequence >= 0", "sequence"),
        sa.CheckConstraint(_is_digest("digest"), "digest"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sequence: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(sa.String(71))

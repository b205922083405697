"""The tables, and every invariant that a constraint can hold.

    models ──< versions ──< files >── blobs             bytes: one row per distinct content, under a key of ours
       │           ^
       ├──< pointers   (model, name) -> at most one version *of the same model*; generation only grows
       └──< moves      every move of every pointer, insert-only, each row hashed with the one before
    uploads ──< upload_blobs                            bytes on their way in; nothing of them is visible yet
    events, feed                                        the change feed and its one counter

Triggers (see the first migration) refuse to change or remove versions, files and moves.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from registry.database import UtcDateTime, utc_now

Json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
# SQLite gives rowid semantics only to INTEGER, PostgreSQL needs 64 bits.
BigInteger = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _is_digest(column: str) -> str:
    # The two databases share no regular expressions; trimming hex digits from hex digits leaves nothing.
    prefix, digits = f"substr({column}, 1, 7)", f"substr({column}, 8)"
    return f"length({column}) = 71 AND {prefix} = 'sha256:' AND trim({digits}, '0123456789abcdef') = ''"


class Base(DeclarativeBase):
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


class ModelRow(Base):
    __tablename__ = "models"
    __table_args__ = (
        sa.CheckConstraint("next_number >= 1", "next_number"),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 128", "name"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(128), unique=True)
    description: Mapped[str] = mapped_column(sa.Text, default="")
    next_number: Mapped[int] = mapped_column(default=1, server_default="1")
    created_at: Mapped[datetime] = mapped_column(server_default=utc_now())


class VersionRow(Base):
    __tablename__ = "versions"
    __table_args__ = (
        sa.CheckConstraint("number >= 1", "number"),
        sa.CheckConstraint(_is_digest("manifest_digest"), "manifest_digest"),
    )

    model_id: Mapped[int] = mapped_column(sa.ForeignKey(ModelRow.id), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    manifest_digest: Mapped[str] = mapped_column(sa.String(71))
    format: Mapped[str] = mapped_column(sa.String(64))
    variants: Mapped[list[Any]]
    signature: Mapped[dict[str, Any] | None]
    example: Mapped[str | None] = mapped_column(sa.Text)
    description: Mapped[str] = mapped_column(sa.Text)
    metrics: Mapped[dict[str, Any]]
    tags: Mapped[dict[str, Any]]
    upload_id: Mapped[str] = mapped_column(sa.ForeignKey("uploads.id"), unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=utc_now())
    created_by: Mapped[str] = mapped_column(sa.String(128))
    # The one column that may change: production and staging are pointers, "archived" is a property.
    archived: Mapped[bool] = mapped_column(default=False, server_default=sa.false())


class BlobRow(Base):
    __tablename__ = "blobs"
    __table_args__ = (
        sa.CheckConstraint(_is_digest("digest"), "digest"),
        sa.CheckConstraint("size >= 0", "size"),
    )

    digest: Mapped[str] = mapped_column(sa.String(71), primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(256), unique=True)
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=utc_now())


class FileRow(Base):
    __tablename__ = "files"
    __table_args__ = (
        sa.ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),
    )

    model_id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str] = mapped_column(sa.String(1024), primary_key=True)
    digest: Mapped[str] = mapped_column(sa.ForeignKey(BlobRow.digest), index=True)


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


class UploadRow(Base):
    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True)
    model: Mapped[str] = mapped_column(sa.String(128))
    created_at: Mapped[datetime] = mapped_column(server_default=utc_now())
    created_by: Mapped[str] = mapped_column(sa.String(128))
    expires_at: Mapped[datetime]


class UploadBlobRow(Base):
    __tablename__ = "upload_blobs"
    __table_args__ = (
        sa.CheckConstraint(_is_digest("digest"), "digest"),
        sa.CheckConstraint("size >= 0", "size"),
    )

    upload_id: Mapped[str] = mapped_column(sa.ForeignKey(UploadRow.id), primary_key=True)
    digest: Mapped[str] = mapped_column(sa.String(71), primary_key=True)
    # Never reused, so nothing that happens to it later can touch bytes that a version refers to.
    key: Mapped[str] = mapped_column(sa.String(256), unique=True)
    size: Mapped[int] = mapped_column(BigInteger)
    # The registry has read the stored bytes and found this size and digest.
    sealed: Mapped[bool] = mapped_column(default=False, server_default=sa.false())


class EventRow(Base):
    __tablename__ = "events"

    revision: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(sa.String(32))
    model: Mapped[str] = mapped_column(sa.String(128), index=True)
    data: Mapped[dict[str, Any]]
    at: Mapped[datetime] = mapped_column(server_default=utc_now())


class FeedRow(Base):
    """One row: the newest revision. Its lock makes revisions appear in the order in which they were given out."""

    __tablename__ = "feed"
    __table_args__ = (sa.CheckConstraint("id = 1", "single_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(BigInteger)

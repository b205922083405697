"""Models, versions, files, pointers, moves, uploads and the change feed; triggers that keep what must not change.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from registry.database import UtcDateTime, utc_now

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
BigInteger = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# (table, what is refused, when): rows that history and clients rely on cannot be changed behind their back.
REFUSALS = [
    ("versions", "DELETE", None),
    (
        "versions",
        "UPDATE OF model_id, number, manifest_digest, format, variants, signature, example, description, "
        "metrics, tags, upload_id, created_at, created_by",
        None,
    ),
    ("files", "DELETE", None),
    ("files", "UPDATE", None),
    ("moves", "DELETE", None),
    ("moves", "UPDATE", None),
    ("pointers", "DELETE", None),
    ("pointers", "UPDATE", "NEW.generation <= OLD.generation"),
    ("models", "UPDATE", "NEW.next_number < OLD.next_number"),
]


def upgrade() -> None:
    op.create_table(
        "blobs",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("key", sa.String(length=256), nullable=False),
        sa.Column("size", BigInteger, nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.CheckConstraint(
            "length(digest) = 71 AND substr(digest, 1, 7) = 'sha256:' AND trim(substr(digest, 8), '0123456789abcdef') = ''",
            name=op.f("ck_blobs_digest"),
        ),
        sa.CheckConstraint("size >= 0", name=op.f("ck_blobs_size")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_blobs")),
        sa.UniqueConstraint("key", name=op.f("uq_blobs_key")),
    )
    op.create_table(
        "events",
        sa.Column("revision", BigInteger, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("data", Json, nullable=False),
        sa.Column("at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_events")),
    )
    op.create_index(op.f("ix_events_model"), "events", ["model"], unique=False)

    op.create_table(
        "feed",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", BigInteger, nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_feed_single_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feed")),
    )
    op.create_table(
        "models",
        sa.Column("id", BigInteger, nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("next_number", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 128", name=op.f("ck_models_name")),
        sa.CheckConstraint("next_number >= 1", name=op.f("ck_models_next_number")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("name", name=op.f("uq_models_name")),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_table(
        "upload_blobs",
        sa.Column("upload_id", sa.String(length=36), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("key", sa.String(length=256), nullable=False),
        sa.Column("size", BigInteger, nullable=False),
        sa.Column("sealed", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.CheckConstraint(
            "length(digest) = 71 AND substr(digest, 1, 7) = 'sha256:' AND trim(substr(digest, 8), '0123456789abcdef') = ''",
            name=op.f("ck_upload_blobs_digest"),
        ),
        sa.CheckConstraint("size >= 0", name=op.f("ck_upload_blobs_size")),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["uploads.id"], name=op.f("fk_upload_blobs_upload_id_uploads")
        ),
        sa.PrimaryKeyConstraint("upload_id", "digest", name=op.f("pk_upload_blobs")),
        sa.UniqueConstraint("key", name=op.f("uq_upload_blobs_key")),
    )
    op.create_table(
        "versions",
        sa.Column("model_id", BigInteger, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("manifest_digest", sa.String(length=71), nullable=False),
        sa.Column("format", sa.String(length=64), nullable=False),
        sa.Column("variants", Json, nullable=False),
        sa.Column("signature", Json, nullable=True),
        sa.Column("example", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("metrics", Json, nullable=False),
        sa.Column("tags", Json, nullable=False),
        sa.Column("upload_id", sa.String(length=36), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("archived", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.CheckConstraint(
            "length(manifest_digest) = 71 AND substr(manifest_digest, 1, 7) = 'sha256:' AND trim(substr(manifest_digest, 8), '0123456789abcdef') = ''",
            name=op.f("ck_versions_manifest_digest"),
        ),
        sa.CheckConstraint("number >= 1", name=op.f("ck_versions_number")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_versions_model_id_models")),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], name=op.f("fk_versions_upload_id_uploads")),
        sa.PrimaryKeyConstraint("model_id", "number", name=op.f("pk_versions")),
        sa.UniqueConstraint("upload_id", name=op.f("uq_versions_upload_id")),
    )
    op.create_table(
        "files",
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("path", sa.String(length=1024), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["blobs.digest"], name=op.f("fk_files_digest_blobs")),
        sa.ForeignKeyConstraint(
            ["model_id", "number"],
            ["versions.model_id", "versions.number"],
            name=op.f("fk_files_model_id_number_versions"),
        ),
        sa.PrimaryKeyConstraint("model_id", "number", "path", name=op.f("pk_files")),
    )
    op.create_index(op.f("ix_files_digest"), "files", ["digest"], unique=False)

    op.create_table(
        "moves",
        sa.Column("model_id", BigInteger, nullable=False),
        sa.Column("pointer", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("from_number", sa.Integer(), nullable=True),
        sa.Column("to_number", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("previous_digest", sa.String(length=71), nullable=False),
        sa.CheckConstraint("(kind = 'vacate') = (to_number IS NULL)", name=op.f("ck_moves_vacate")),
        sa.CheckConstraint("kind IN ('promote', 'rollback', 'vacate')", name=op.f("ck_moves_kind")),
        sa.CheckConstraint(
            "length(digest) = 71 AND substr(digest, 1, 7) = 'sha256:' AND trim(substr(digest, 8), '0123456789abcdef') = ''",
            name=op.f("ck_moves_digest"),
        ),
        sa.CheckConstraint("generation >= 1", name=op.f("ck_moves_generation")),
        sa.ForeignKeyConstraint(
            ["model_id", "from_number"],
            ["versions.model_id", "versions.number"],
            name=op.f("fk_moves_model_id_from_number_versions"),
        ),
        sa.ForeignKeyConstraint(
            ["model_id", "to_number"],
            ["versions.model_id", "versions.number"],
            name=op.f("fk_moves_model_id_to_number_versions"),
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_moves_model_id_models")),
        sa.PrimaryKeyConstraint("model_id", "pointer", "generation", name=op.f("pk_moves")),
        sa.UniqueConstraint(
            "model_id", "pointer", "previous_digest", name=op.f("uq_moves_model_id_pointer_previous_digest")
        ),
    )
    op.create_table(
        "pointers",
        sa.Column("model_id", BigInteger, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("moved_at", UtcDateTime(), nullable=False),
        sa.Column("moved_by", sa.String(length=128), nullable=False),
        sa.CheckConstraint(
            "(kind = 'stage') = (name IN ('production', 'staging'))", name=op.f("ck_pointers_kind")
        ),
        sa.CheckConstraint("kind IN ('stage', 'alias')", name=op.f("ck_pointers_kind_known")),
        sa.CheckConstraint("generation >= 1", name=op.f("ck_pointers_generation")),
        sa.ForeignKeyConstraint(
            ["model_id", "number"],
            ["versions.model_id", "versions.number"],
            name=op.f("fk_pointers_model_id_number_versions"),
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_pointers_model_id_models")),
        sa.PrimaryKeyConstraint("model_id", "name", name=op.f("pk_pointers")),
    )
    op.create_index(
        "uq_pointers_one_stage_per_version",
        "pointers",
        ["model_id", "number"],
        unique=True,
        sqlite_where=sa.text("kind = 'stage'"),
        postgresql_where=sa.text("kind = 'stage'"),
    )
    op.execute("INSERT INTO feed (id, revision) VALUES (1, 0)")
    create_triggers()


def create_triggers() -> None:
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    if not on_sqlite:
        op.execute("""
            CREATE FUNCTION modelyard_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                RAISE EXCEPTION '% refuses % here', TG_TABLE_NAME, TG_OP USING ERRCODE = 'integrity_constraint_violation';
            END $$
        """)
    for table, action, condition in REFUSALS:
        name = f"tr_{table}_refuse_{action.split()[0].lower()}"
        when = f" WHEN ({condition})" if condition else ""
        if on_sqlite:
            body = f"BEGIN SELECT RAISE(ABORT, '{table} refuses {action.split()[0]} here'); END"
        else:
            body = "EXECUTE FUNCTION modelyard_refuse()"
        op.execute(f"CREATE TRIGGER {name} BEFORE {action} ON {table} FOR EACH ROW{when} {body}")


def downgrade() -> None:
    op.drop_table("pointers")
    op.drop_table("moves")
    op.drop_table("files")
    op.drop_table("versions")
    op.drop_table("upload_blobs")
    op.drop_table("uploads")
    op.drop_table("models")
    op.drop_table("feed")
    op.drop_table("events")
    op.drop_table("blobs")
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION modelyard_refuse()")

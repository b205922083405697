"""Contents made of stretches of blobs; leases and trash; soft deletion and legal hold.

Each blob of before becomes a live blob and the content of the files that had it. Uploads that are under way start over.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from registry.database import UtcDateTime, utc_now

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
BigInteger = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
IS_DIGEST = "length(digest) = 71 AND substr(digest, 1, 7) = 'sha256:' AND trim(substr(digest, 8), '0123456789abcdef') = ''"
LAYOUT = '{"layout": 1, "segments": '

POINTED_AT = "EXISTS (SELECT 1 FROM pointers p WHERE p.model_id = NEW.model_id AND p.number = NEW.number)"
# (table, name, what is refused, when)
REFUSALS = [
    ("files", "delete", "DELETE", None),
    ("files", "update", "UPDATE", None),
    ("contents", "delete", "DELETE", None),
    ("contents", "update", "UPDATE OF id, digest, size", None),
    # Healthy bytes are never exchanged, not even for the same ones; damaged ones are repaired.
    ("contents", "layout", "UPDATE OF layout", "NOT OLD.damaged"),
    ("blobs", "update", "UPDATE OF id, digest, size", None),
    ("blobs", "key", "UPDATE OF key", "OLD.state <> 'expected'"),
    (
        "versions",
        "held",
        "UPDATE OF deleted_at",
        f"NEW.deleted_at IS NOT NULL AND (NEW.legal_hold IS NOT NULL OR {POINTED_AT})",
    ),
    ("versions", "hold", "UPDATE OF legal_hold", "NEW.legal_hold IS NOT NULL AND NEW.deleted_at IS NOT NULL"),
    (
        "versions",
        "purge",
        "UPDATE OF purged_at, deleted_at",
        "NEW.purged_at IS NOT NULL AND NEW.deleted_at IS NULL OR OLD.purged_at IS NOT NULL",
    ),
    (
        "pointers",
        "deleted",
        "UPDATE OF number",
        "EXISTS (SELECT 1 FROM versions v WHERE v.model_id = NEW.model_id AND v.number = NEW.number"
        " AND v.deleted_at IS NOT NULL)",
    ),
]


def upgrade() -> None:
    keep("blobs", "files")
    op.execute("CREATE TABLE old_keys AS SELECT key FROM upload_blobs")
    for table in ("files", "upload_blobs", "blobs"):
        op.drop_table(table)
    change_tables()
    create_tables()
    copy_forward()
    for table in ("old_files", "old_blobs", "old_keys"):
        op.drop_table(table)
    create_triggers()


def keep(*tables: str) -> None:
    for table in tables:
        op.execute(f"CREATE TABLE old_{table} AS SELECT * FROM {table}")


def change_tables() -> None:
    op.add_column("uploads", sa.Column("idempotency_key", sa.String(length=128), nullable=True))
    op.add_column("uploads", sa.Column("request_digest", sa.String(length=71), nullable=True))
    op.create_index(op.f("ix_uploads_idempotency_key"), "uploads", ["idempotency_key"], unique=True)
    op.create_index(op.f("ix_uploads_model"), "uploads", ["model"], unique=False)
    op.add_column("versions", sa.Column("deleted_at", UtcDateTime(), nullable=True))
    op.add_column("versions", sa.Column("deleted_by", sa.String(length=128), nullable=True))
    op.add_column("versions", sa.Column("purged_at", UtcDateTime(), nullable=True))
    op.add_column("versions", sa.Column("legal_hold", sa.Text(), nullable=True))


def create_tables() -> None:
    op.create_table(
        "blobs",
        sa.Column("id", BigInteger, nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("size", BigInteger, nullable=False),
        sa.Column("key", sa.String(length=256), nullable=False),
        sa.Column("state", sa.String(length=9), nullable=False),
        sa.Column("upload_id", sa.String(length=36), nullable=True),
        sa.Column("damaged", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.Column("condemned_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint(IS_DIGEST, name=op.f("ck_blobs_digest")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_blobs_size")),
        sa.CheckConstraint("state IN ('expected', 'live', 'condemned')", name=op.f("ck_blobs_state")),
        sa.CheckConstraint(
            "(state = 'condemned') = (condemned_at IS NOT NULL)", name=op.f("ck_blobs_condemned_at")
        ),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], name=op.f("fk_blobs_upload_id_uploads")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blobs")),
        sa.UniqueConstraint("key", name=op.f("uq_blobs_key")),
    )
    for column in ("digest", "state", "upload_id"):
        op.create_index(op.f(f"ix_blobs_{column}"), "blobs", [column], unique=False)
    op.create_table(
        "contents",
        sa.Column("id", BigInteger, nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("size", BigInteger, nullable=False),
        sa.Column("layout", Json, nullable=False),
        sa.Column("chunks", sa.LargeBinary(), nullable=True),
        sa.Column("verified_at", UtcDateTime(), nullable=True),
        sa.Column("claimed_until", UtcDateTime(), nullable=True),
        sa.Column("damaged", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.CheckConstraint(IS_DIGEST, name=op.f("ck_contents_digest")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_contents_size")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contents")),
        sa.UniqueConstraint("id", "digest", name=op.f("uq_contents_id_digest")),
    )
    op.create_index(op.f("ix_contents_digest"), "contents", ["digest"], unique=False)
    op.create_table(
        "content_blobs",
        sa.Column("content_id", BigInteger, nullable=False),
        sa.Column("blob_id", BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_content_blobs_blob_id_blobs")),
        sa.ForeignKeyConstraint(
            ["content_id"], ["contents.id"], name=op.f("fk_content_blobs_content_id_contents")
        ),
        sa.PrimaryKeyConstraint("content_id", "blob_id", name=op.f("pk_content_blobs")),
    )
    op.create_index(op.f("ix_content_blobs_blob_id"), "content_blobs", ["blob_id"], unique=False)
    op.create_table(
        "leases",
        sa.Column("upload_id", sa.String(length=36), nullable=False),
        sa.Column("blob_id", BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_leases_blob_id_blobs")),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], name=op.f("fk_leases_upload_id_uploads")),
        sa.PrimaryKeyConstraint("upload_id", "blob_id", name=op.f("pk_leases")),
    )
    op.create_index(op.f("ix_leases_blob_id"), "leases", ["blob_id"], unique=False)
    op.create_table(
        "trash",
        sa.Column("key", sa.String(length=256), nullable=False),
        sa.Column("not_before", UtcDateTime(), nullable=False),
        sa.Column("claimed", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_trash")),
    )
    op.create_index(op.f("ix_trash_not_before"), "trash", ["not_before"], unique=False)
    op.create_table(
        "files",
        sa.Column("model_id", BigInteger, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("path", sa.String(length=1024), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("content_id", BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["content_id", "digest"],
            ["contents.id", "contents.digest"],
            name=op.f("fk_files_content_id_digest_contents"),
        ),
        sa.ForeignKeyConstraint(
            ["model_id", "number"],
            ["versions.model_id", "versions.number"],
            name=op.f("fk_files_model_id_number_versions"),
        ),
        sa.PrimaryKeyConstraint("model_id", "number", "path", name=op.f("pk_files")),
    )
    op.create_index(op.f("ix_files_digest"), "files", ["digest"], unique=False)
    op.create_index(op.f("ix_files_content_id"), "files", ["content_id"], unique=False)


def copy_forward() -> None:
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    json = "" if on_sqlite else "::jsonb"
    now = str(sa.select(utc_now()).compile(op.get_bind())).removeprefix("SELECT ").split(" AS ")[0]
    no = "0" if on_sqlite else "false"
    op.execute(
        "INSERT INTO blobs (digest, size, key, state, damaged, created_at)"
        f" SELECT digest, size, key, 'live', {no}, created_at FROM old_blobs ORDER BY digest"
    )
    op.execute(
        "INSERT INTO contents (digest, size, layout, verified_at, damaged)"
        f" SELECT digest, size, ('{LAYOUT}[[' || id || ', 0, ' || size || ']]}}'){json}, created_at, {no} FROM blobs ORDER BY id"
    )
    op.execute(
        "INSERT INTO content_blobs (content_id, blob_id)"
        " SELECT c.id, b.id FROM contents c JOIN blobs b ON b.digest = c.digest"
    )
    op.execute(
        "INSERT INTO files (model_id, number, path, digest, content_id)"
        " SELECT f.model_id, f.number, f.path, f.digest, c.id FROM old_files f JOIN contents c ON c.digest = f.digest"
    )
    op.execute(
        f"INSERT INTO trash (key, not_before, claimed) SELECT key, {now}, {no} FROM old_keys"
        " WHERE key NOT IN (SELECT key FROM blobs)"
    )


def create_triggers() -> None:
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    for table, name, action, condition in REFUSALS:
        trigger = f"tr_{table}_refuse_{name}"
        refusal = f"{table} refuses {action.split()[0]} here"
        if on_sqlite:
            when = f" WHEN ({condition})" if condition else ""
            op.execute(
                f"CREATE TRIGGER {trigger} BEFORE {action} ON {table} FOR EACH ROW{when}"
                f" BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
            )
        else:
            # PostgreSQL takes no subquery in WHEN, so that the condition stands in the function.
            op.execute(
                f"CREATE FUNCTION {trigger}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                f" IF {condition or 'true'} THEN RAISE EXCEPTION '{refusal}'"
                " USING ERRCODE = 'integrity_constraint_violation'; END IF;"
                " IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW; END $$"
            )
            op.execute(
                f"CREATE TRIGGER {trigger} BEFORE {action} ON {table} FOR EACH ROW EXECUTE FUNCTION {trigger}()"
            )


def downgrade() -> None:
    bind = op.get_bind()
    on_sqlite = bind.dialect.name == "sqlite"
    text = "layout" if on_sqlite else "layout::text"
    packed = bind.execute(
        sa.text(
            "SELECT count(*) FROM files f JOIN contents c ON c.id = f.content_id WHERE NOT EXISTS ("
            " SELECT 1 FROM content_blobs cb JOIN blobs b ON b.id = cb.blob_id"
            f" WHERE cb.content_id = c.id AND b.digest = c.digest AND b.size = c.size AND {text} = "
            f" '{LAYOUT.replace(':', chr(92) + ':')}[[' || b.id || ', 0, ' || b.size || ']]}}')"
        )
    ).scalar_one()
    if packed:
        raise RuntimeError(
            f"{packed} files are stored in packs, which the schema before 0002 cannot express: restore a backup, or "
            "export these versions and delete them first"
        )
    for table, name, _, _ in REFUSALS:
        trigger = f"tr_{table}_refuse_{name}"
        op.execute(f"DROP TRIGGER {trigger}" + ("" if on_sqlite else f" ON {table}"))
        if not on_sqlite:
            op.execute(f"DROP FUNCTION {trigger}()")
    keep("files", "contents", "content_blobs", "blobs")
    for table in ("files", "leases", "content_blobs", "contents", "trash", "blobs"):
        op.drop_table(table)
    change_tables_back()
    create_tables_of_before()
    copy_back()
    for table in ("old_files", "old_contents", "old_content_blobs", "old_blobs"):
        op.drop_table(table)
    for action in ("DELETE", "UPDATE"):
        body = (
            f"BEGIN SELECT RAISE(ABORT, 'files refuses {action} here'); END"
            if on_sqlite
            else "EXECUTE FUNCTION modelyard_refuse()"
        )
        op.execute(
            f"CREATE TRIGGER tr_files_refuse_{action.lower()} BEFORE {action} ON files FOR EACH ROW {body}"
        )


def change_tables_back() -> None:
    op.drop_index(op.f("ix_uploads_idempotency_key"), "uploads")
    op.drop_index(op.f("ix_uploads_model"), "uploads")
    op.drop_column("uploads", "idempotency_key")
    op.drop_column("uploads", "request_digest")
    for column in ("deleted_at", "deleted_by", "purged_at", "legal_hold"):
        op.drop_column("versions", column)


def create_tables_of_before() -> None:
    op.create_table(
        "blobs",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("key", sa.String(length=256), nullable=False),
        sa.Column("size", BigInteger, nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.CheckConstraint(IS_DIGEST, name=op.f("ck_blobs_digest")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_blobs_size")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_blobs")),
        sa.UniqueConstraint("key", name=op.f("uq_blobs_key")),
    )
    op.create_table(
        "upload_blobs",
        sa.Column("upload_id", sa.String(length=36), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("key", sa.String(length=256), nullable=False),
        sa.Column("size", BigInteger, nullable=False),
        sa.Column("sealed", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.CheckConstraint(IS_DIGEST, name=op.f("ck_upload_blobs_digest")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_upload_blobs_size")),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["uploads.id"], name=op.f("fk_upload_blobs_upload_id_uploads")
        ),
        sa.PrimaryKeyConstraint("upload_id", "digest", name=op.f("pk_upload_blobs")),
        sa.UniqueConstraint("key", name=op.f("uq_upload_blobs_key")),
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


def copy_back() -> None:
    op.execute(
        "INSERT INTO blobs (digest, key, size, created_at) SELECT digest, key, size, created_at FROM old_blobs"
        " WHERE id IN (SELECT min(cb.blob_id) FROM old_content_blobs cb JOIN old_contents c ON c.id = cb.content_id"
        " GROUP BY c.digest)"
    )
    op.execute(
        "INSERT INTO files (model_id, number, path, digest) SELECT model_id, number, path, digest FROM old_files"
    )

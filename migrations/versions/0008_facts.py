"""Facts: tags and metrics leave the row of their version, and may change; metadata, parameters, model cards, lineage;
and what serving adapters say that they run.

Revision ID: 0008
"""

import sqlalchemy as sa
from alembic import op

from registry.database import UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

BigInteger = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Name = sa.String(length=128).with_variant(sa.String(length=128, collation="C"), "postgresql")
LARGEST = "1.7976931348623157e308"
FIXED = "model_id, number, manifest_digest, format, variants, signature, example, description"
AND_FIXED = "upload_id, created_at, created_by"


def upgrade() -> None:
    create_tables()
    create_deployments()
    copy_forward()
    integer = "INTEGER" if on_sqlite() else "BIGINT"
    drop_trigger("versions", "tr_versions_refuse_update")
    for column in ("metrics", "tags"):
        op.execute(f"ALTER TABLE versions DROP COLUMN {column}")
    # Not add_column: SQLite would have the table made anew, without its constraints.
    op.execute(
        f"ALTER TABLE versions ADD COLUMN fact_revision {integer} DEFAULT 0 NOT NULL"
        " CONSTRAINT ck_versions_fact_revision CHECK (fact_revision >= 0)"
    )
    refuse("versions", "update", f"UPDATE OF {FIXED}, {AND_FIXED}")
    # An approval says which revision of the facts it is for: that number must not come back.
    refuse("versions", "older_facts", "UPDATE OF fact_revision", "NEW.fact_revision < OLD.fact_revision")


def create_tables() -> None:
    of_version = ["model_id", "number"], ["versions.model_id", "versions.number"]
    op.create_table(
        "facts",
        sa.Column("model_id", BigInteger, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=9), nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("dataset", Name, server_default="", nullable=False),
        sa.Column("slice", Name, server_default="", nullable=False),
        sa.Column("type", sa.String(length=7), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("head", Name, nullable=True),
        sa.Column("value", sa.Double(), nullable=True),
        sa.CheckConstraint("kind IN ('tag', 'metadata', 'parameter', 'metric')", name=op.f("ck_facts_kind")),
        sa.CheckConstraint("type IN ('string', 'number', 'boolean', 'time')", name=op.f("ck_facts_type")),
        sa.CheckConstraint("kind <> 'tag' OR type = 'string'", name=op.f("ck_facts_tag")),
        sa.CheckConstraint("kind <> 'metric' OR type = 'number'", name=op.f("ck_facts_metric")),
        sa.CheckConstraint(
            "kind = 'metric' OR (dataset = '' AND slice = '')", name=op.f("ck_facts_only_metrics_have_datasets")
        ),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 128", name=op.f("ck_facts_name")),
        sa.CheckConstraint("(type = 'string') = (text IS NOT NULL)", name=op.f("ck_facts_text")),
        sa.CheckConstraint("(type = 'string') = (value IS NULL)", name=op.f("ck_facts_value")),
        sa.CheckConstraint("text IS NULL OR length(text) <= 10000", name=op.f("ck_facts_text_length")),
        sa.CheckConstraint(
            "coalesce(head, '') = coalesce(substr(text, 1, 128), '')", name=op.f("ck_facts_head")
        ),
        sa.CheckConstraint("(head IS NULL) = (text IS NULL)", name=op.f("ck_facts_head_of_text")),
        sa.CheckConstraint("type <> 'boolean' OR value IN (0, 1)", name=op.f("ck_facts_boolean")),
        sa.CheckConstraint(f"value BETWEEN -{LARGEST} AND {LARGEST}", name=op.f("ck_facts_finite")),
        sa.ForeignKeyConstraint(*of_version, name=op.f("fk_facts_model_id_number_versions")),
        sa.PrimaryKeyConstraint(
            "model_id", "number", "kind", "name", "dataset", "slice", name=op.f("pk_facts")
        ),
    )
    op.create_table(
        "cards",
        sa.Column("model_id", BigInteger, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.CheckConstraint("length(text) BETWEEN 1 AND 262144", name=op.f("ck_cards_text")),
        sa.ForeignKeyConstraint(*of_version, name=op.f("fk_cards_model_id_number_versions")),
        sa.PrimaryKeyConstraint("model_id", "number", name=op.f("pk_cards")),
    )
    op.create_table(
        "lineages",
        sa.Column("model_id", BigInteger, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("run", sa.String(length=512), nullable=False),
        sa.Column("repository", sa.String(length=512), nullable=False),
        sa.Column("code_commit", sa.String(length=128), nullable=False),
        sa.Column("image", sa.String(length=512), nullable=False),
        sa.ForeignKeyConstraint(*of_version, name=op.f("fk_lineages_model_id_number_versions")),
        sa.PrimaryKeyConstraint("model_id", "number", name=op.f("pk_lineages")),
    )
    op.create_table(
        "datasets",
        sa.Column("model_id", BigInteger, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("digest", sa.String(length=160), nullable=False),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 128", name=op.f("ck_datasets_name")),
        sa.ForeignKeyConstraint(*of_version, name=op.f("fk_datasets_model_id_number_versions")),
        sa.PrimaryKeyConstraint("model_id", "number", "name", name=op.f("pk_datasets")),
    )
    op.create_index(op.f("ix_datasets_digest"), "datasets", ["digest"])
    op.create_table(
        "parents",
        sa.Column("model_id", BigInteger, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("parent_model_id", BigInteger, autoincrement=False, nullable=False),
        sa.Column("parent_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.CheckConstraint("model_id <> parent_model_id OR number > parent_number", name=op.f("ck_parents_older")),
        sa.ForeignKeyConstraint(*of_version, name=op.f("fk_parents_model_id_number_versions")),
        sa.ForeignKeyConstraint(
            ["parent_model_id", "parent_number"],
            ["versions.model_id", "versions.number"],
            name=op.f("fk_parents_parent_model_id_parent_number_versions"),
        ),
        sa.PrimaryKeyConstraint(
            "model_id", "number", "parent_model_id", "parent_number", name=op.f("pk_parents")
        ),
    )
    op.create_index(
        op.f("ix_parents_parent_model_id_parent_number"), "parents", ["parent_model_id", "parent_number"]
    )


def create_deployments() -> None:
    op.create_table(
        "adapters",
        sa.Column("id", BigInteger, nullable=False),
        sa.Column("workspace_id", BigInteger, nullable=False),
        sa.Column("principal", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("reported_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 128", name=op.f("ck_adapters_name")),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_adapters_workspace_id_workspaces")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adapters")),
        sa.UniqueConstraint(
            "workspace_id", "principal", "name", name=op.f("uq_adapters_workspace_id_principal_name")
        ),
    )
    op.create_index(op.f("ix_adapters_reported_at"), "adapters", ["reported_at"])
    op.create_table(
        "deployments",
        sa.Column("adapter_id", BigInteger, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("model_id", BigInteger, nullable=False),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("follows", sa.String(length=256), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=True),
        sa.Column("trouble", sa.String(length=512), nullable=False),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 128", name=op.f("ck_deployments_name")),
        sa.ForeignKeyConstraint(
            ["adapter_id"],
            ["adapters.id"],
            name=op.f("fk_deployments_adapter_id_adapters"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_deployments_model_id_models")),
        sa.ForeignKeyConstraint(
            ["model_id", "number"],
            ["versions.model_id", "versions.number"],
            name=op.f("fk_deployments_model_id_number_versions"),
        ),
        sa.PrimaryKeyConstraint("adapter_id", "name", name=op.f("pk_deployments")),
    )
    op.create_index(
        op.f("ix_deployments_model_id_adapter_id_name"), "deployments", ["model_id", "adapter_id", "name"]
    )


def copy_forward() -> None:
    """Before the indexes are there: they are made faster of rows that are."""
    each, number, text = ("json_each", "CAST(f.value AS REAL)", "f.value")
    if not on_sqlite():
        each, number, text = "jsonb_each", "CAST(f.value #>> '{}' AS DOUBLE PRECISION)", "f.value #>> '{}'"
    of_each = "SELECT v.model_id, v.number, {}, f.key, {} FROM versions v, " + each + "(v.{}) f"
    into = "INSERT INTO facts (model_id, number, kind, name, type, text, head, value) "
    op.execute(into + of_each.format("'metric'", f"'number', NULL, NULL, {number}", "metrics"))
    op.execute(into + of_each.format("'tag'", f"'string', {text}, substr({text}, 1, 128), NULL", "tags"))
    for column in ("head", "value"):
        op.create_index(
            f"ix_facts_kind_name_{column}_model_id_number",
            "facts",
            ["kind", "name", column, "model_id", "number"],
        )


def refuse(table: str, name: str, action: str, condition: str | None = None) -> None:
    when = f" WHEN ({condition})" if condition else ""
    body = "EXECUTE FUNCTION modelyard_refuse()"
    if on_sqlite():
        body = f"BEGIN SELECT RAISE(ABORT, '{table} refuses {action.split()[0]} here'); END"
    op.execute(f"CREATE TRIGGER tr_{table}_refuse_{name} BEFORE {action} ON {table} FOR EACH ROW{when} {body}")


def drop_trigger(table: str, trigger: str) -> None:
    op.execute(f"DROP TRIGGER {trigger}" + ("" if on_sqlite() else f" ON {table}"))


def on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def downgrade() -> None:
    require_expressible()
    drop_trigger("versions", "tr_versions_refuse_older_facts")
    drop_trigger("versions", "tr_versions_refuse_update")
    op.execute("ALTER TABLE versions DROP COLUMN fact_revision")
    for column in ("metrics", "tags"):
        kind = "JSON" if on_sqlite() else "JSONB"
        op.execute(f"ALTER TABLE versions ADD COLUMN {column} {kind} DEFAULT '{{}}' NOT NULL")
    copy_back()
    refuse("versions", "update", f"UPDATE OF {FIXED}, metrics, tags, {AND_FIXED}")
    for table in ("deployments", "adapters", "parents", "datasets", "lineages", "cards", "facts"):
        op.drop_table(table)


def require_expressible() -> None:
    lost = op.get_bind().execute(
        sa.text(
            "SELECT (SELECT count(*) FROM facts WHERE kind IN ('metadata', 'parameter') OR dataset <> '' OR slice <> '')"
            " + (SELECT count(*) FROM cards) + (SELECT count(*) FROM lineages)"
            " + (SELECT count(*) FROM datasets) + (SELECT count(*) FROM parents)"
        )
    )
    if count := lost.scalar_one():
        raise RuntimeError(
            f"{count} facts are of kinds that the schema before 0008 cannot express: export and remove them first, or "
            "restore a backup"
        )


def copy_back() -> None:
    gather = "json_group_object" if on_sqlite() else "jsonb_object_agg"
    for column, kind, value in (("metrics", "metric", "value"), ("tags", "tag", "text")):
        found = f"FROM facts f WHERE f.model_id = versions.model_id AND f.number = versions.number AND f.kind = '{kind}'"
        op.execute(
            f"UPDATE versions SET {column} = (SELECT {gather}(f.name, f.{value}) {found}) WHERE EXISTS (SELECT 1 {found})"
        )

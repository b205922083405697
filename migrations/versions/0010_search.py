"""Search: indexes that lead to facts and versions.

A fact has a text or a value, so each index is of those that have it only; metrics are looked for on one dataset and slice.

Revision ID: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

KEY = ["model_id", "number"]


def upgrade() -> None:
    for column in ("head", "value"):
        op.drop_index(f"ix_facts_kind_name_{column}_model_id_number", "facts")
    create("ix_facts_text", "facts", ["kind", "name", "head", *KEY], "head IS NOT NULL")
    create("ix_facts_value", "facts", ["kind", "name", "dataset", "slice", "type", "value", *KEY], "value IS NOT NULL")
    create("ix_versions_created_at", "versions", ["created_at", *KEY])
    create("ix_versions_created_by", "versions", ["created_by", *KEY])
    create("ix_versions_format", "versions", ["format", *KEY])
    create("ix_pointers_name", "pointers", ["name", *KEY])


def downgrade() -> None:
    for table, name in (
        ("pointers", "name"),
        *(("versions", column) for column in ("format", "created_by", "created_at")),
        *(("facts", column) for column in ("value", "text")),
    ):
        op.drop_index(f"ix_{table}_{name}", table)
    for column in ("head", "value"):
        op.create_index(
            f"ix_facts_kind_name_{column}_model_id_number", "facts", ["kind", "name", column, *KEY]
        )


def create(name: str, table: str, columns: list[str], condition: str | None = None) -> None:
    where = sa.text(condition) if condition else None
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)

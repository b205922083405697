"""The change feed: trimmed events, triggers that keep the others, and on PostgreSQL a notification with each commit.

Revision ID: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# (table, name, what is refused, when)
REFUSALS = [
    ("events", "update", "UPDATE", "1 = 1"),
    ("events", "delete", "DELETE", "OLD.revision > (SELECT trimmed FROM feed)"),
    ("feed", "delete", "DELETE", "1 = 1"),
    ("feed", "back", "UPDATE", "NEW.revision < OLD.revision OR NEW.trimmed < OLD.trimmed"),
]


def upgrade() -> None:
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    integer = "INTEGER" if on_sqlite else "BIGINT"
    # Not add_column: SQLite would have the table made anew, without the constraint that it has one row.
    op.execute(
        f"ALTER TABLE feed ADD COLUMN trimmed {integer} DEFAULT 0 NOT NULL"
        " CONSTRAINT ck_feed_trimmed CHECK (trimmed BETWEEN 0 AND revision)"
    )
    op.create_index("ix_events_workspace_id_model_revision", "events", ["workspace_id", "model", "revision"])
    op.drop_index("ix_events_model", "events")
    # Without it, each event that is removed would have the database look through all deliveries.
    op.create_index("ix_deliveries_revision", "deliveries", ["revision"])
    for table, name, action, condition in REFUSALS:
        trigger = f"tr_{table}_refuse_{name}"
        refusal = f"{table} refuses {action} here"
        if on_sqlite:
            op.execute(
                f"CREATE TRIGGER {trigger} BEFORE {action} ON {table} FOR EACH ROW WHEN ({condition})"
                f" BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
            )
        else:
            op.execute(
                f"CREATE FUNCTION {trigger}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                f" IF {condition} THEN RAISE EXCEPTION '{refusal}'"
                " USING ERRCODE = 'integrity_constraint_violation'; END IF;"
                " IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW; END $$"
            )
            op.execute(
                f"CREATE TRIGGER {trigger} BEFORE {action} ON {table} FOR EACH ROW EXECUTE FUNCTION {trigger}()"
            )
    if not on_sqlite:
        # Sent when the transaction commits, whoever writes: no program has to remember it.
        op.execute(
            "CREATE FUNCTION tr_feed_notify() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " PERFORM pg_notify('modelyard_events', NEW.revision::text); RETURN NULL; END $$"
        )
        op.execute(
            "CREATE TRIGGER tr_feed_notify AFTER UPDATE OF revision ON feed FOR EACH ROW"
            " EXECUTE FUNCTION tr_feed_notify()"
        )


def downgrade() -> None:
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    for table, name, _, _ in REFUSALS:
        drop_trigger(table, f"tr_{table}_refuse_{name}", on_sqlite=on_sqlite)
    if not on_sqlite:
        drop_trigger("feed", "tr_feed_notify", on_sqlite=False)
    op.drop_index("ix_deliveries_revision", "deliveries")
    op.create_index("ix_events_model", "events", ["model"])
    op.drop_index("ix_events_workspace_id_model_revision", "events")
    op.execute("ALTER TABLE feed DROP COLUMN trimmed")


def drop_trigger(table: str, trigger: str, *, on_sqlite: bool) -> None:
    op.execute(f"DROP TRIGGER {trigger}" + ("" if on_sqlite else f" ON {table}"))
    if not on_sqlite:
        op.execute(f"DROP FUNCTION {trigger}()")

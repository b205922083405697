"""The tables of facts: what is said about a version beside its bytes, and may be said later.

    versions ──< facts      a tag, a metric, a parameter, metadata: one row each, typed, so that they can be searched
    versions ──1 cards      the model card
    versions ──1 lineages   the run, code and image that made it
    versions ──< datasets   what it was trained and tested on, by digest
    versions ──< parents >── versions      what it was made from: always an older version, so that there is no circle

`versions.fact_revision` counts the changes of all of these: whoever looked at a version and at this number has seen the
facts as they still are, or finds a larger one.
"""

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from registry.tables import Base, BigInteger

MAX_TEXT = 10_000
HEAD = 128
MAX_CARD_BYTES = 256 * 1024

# Compared byte by byte, on both databases: what a search finds must not depend on the language of the database.
_Name = sa.String(HEAD).with_variant(sa.String(HEAD, collation="C"), "postgresql")
_LARGEST = "1.7976931348623157e308"


def _index(name: str, condition: str, *columns: str) -> sa.Index:
    where = sa.text(condition)
    key = (*columns, "model_id", "number")
    return sa.Index(f"ix_facts_{name}", *key, sqlite_where=where, postgresql_where=where)


class FactRow(Base):
    """One fact. A string is `text`, and its first characters, for an index, `head`; all else is a number, `value`."""

    __tablename__ = "facts"
    __table_args__ = (
        sa.ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),
        sa.CheckConstraint("kind IN ('tag', 'metadata', 'parameter', 'metric')", "kind"),
        sa.CheckConstraint("type IN ('string', 'number', 'boolean', 'time')", "type"),
        sa.CheckConstraint("kind <> 'tag' OR type = 'string'", "tag"),
        sa.CheckConstraint("kind <> 'metric' OR type = 'number'", "metric"),
        sa.CheckConstraint("kind = 'metric' OR (dataset = '' AND slice = '')", "only_metrics_have_datasets"),
        sa.CheckConstraint(f"length(name) BETWEEN 1 AND {HEAD}", "name"),
        sa.CheckConstraint("(type = 'string') = (text IS NOT NULL)", "text"),
        sa.CheckConstraint("(type = 'string') = (value IS NULL)", "value"),
        sa.CheckConstraint(f"text IS NULL OR length(text) <= {MAX_TEXT}", "text_length"),
        sa.CheckConstraint(f"coalesce(head, '') = coalesce(substr(text, 1, {HEAD}), '')", "head"),
        sa.CheckConstraint("(head IS NULL) = (text IS NULL)", "head_of_text"),
        sa.CheckConstraint("type <> 'boolean' OR value IN (0, 1)", "boolean"),
        # Neither infinite nor, where the database knows it, not a number.
        sa.CheckConstraint(f"value BETWEEN -{_LARGEST} AND {_LARGEST}", "finite"),
        # What a search looks for is together, and in the order of its pages.
        _index("text", "head IS NOT NULL", "kind", "name", "head"),
        _index("value", "value IS NOT NULL", "kind", "name", "dataset", "slice", "type", "value"),
    )

    model_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(sa.String(9), primary_key=True)
    name: Mapped[str] = mapped_column(_Name, primary_key=True)
    dataset: Mapped[str] = mapped_column(_Name, primary_key=True, default="", server_default="")
    slice: Mapped[str] = mapped_column(_Name, primary_key=True, default="", server_default="")
    type: Mapped[str] = mapped_column(sa.String(7))
    text: Mapped[str | None] = mapped_column(sa.Text)
    head: Mapped[str | None] = mapped_column(_Name)
    # Numbers; booleans as 0 and 1; times as seconds since 1970.
    value: Mapped[float | None] = mapped_column(sa.Double)


class CardRow(Base):
    """The model card of a version, in Markdown. A version without one has no row."""

    __tablename__ = "cards"
    __table_args__ = (
        sa.ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),
        sa.CheckConstraint(f"length(text) BETWEEN 1 AND {MAX_CARD_BYTES}", "text"),
    )

    model_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str] = mapped_column(sa.Text)


class LineageRow(Base):
    """Where a version comes from, as far as it is text; "": not said. Nothing here is ever fetched or run."""

    __tablename__ = "lineages"
    __table_args__ = (
        sa.ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),
    )

    model_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    run: Mapped[str] = mapped_column(sa.String(512))
    repository: Mapped[str] = mapped_column(sa.String(512))
    code_commit: Mapped[str] = mapped_column(sa.String(128))
    image: Mapped[str] = mapped_column(sa.String(512))


class DatasetRow(Base):
    """A dataset that a version was made with, under the name of its part in that."""

    __tablename__ = "datasets"
    __table_args__ = (
        sa.ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),
        sa.CheckConstraint(f"length(name) BETWEEN 1 AND {HEAD}", "name"),
        sa.Index(None, "digest"),
    )

    model_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(_Name, primary_key=True)
    digest: Mapped[str] = mapped_column(sa.String(160))


class ParentRow(Base):
    """A version was made from another one: fine-tuned, distilled, an ensemble of several."""

    __tablename__ = "parents"
    __table_args__ = (
        sa.ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),
        sa.ForeignKeyConstraint(
            ["parent_model_id", "parent_number"], ["versions.model_id", "versions.number"]
        ),
        sa.CheckConstraint("model_id <> parent_model_id OR number > parent_number", "older"),
        sa.Index(None, "parent_model_id", "parent_number"),
    )

    model_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    parent_model_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    parent_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)

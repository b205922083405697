"""Keys of versions, and the rows of other tables that belong to some of them."""

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from registry.tables import Base

Key = tuple[int, int]
"""model_id and number."""


def belong(table: type[Base]) -> tuple[Any, sa.ColumnElement[bool]]:
    """What to join a table with the columns `model_id` and `number` with, to get what belongs to the versions `given`.

    The keys are one parameter, however many they are: one statement to plan, whose rows each database finds by an index.
    """
    # Spelled out, each number of keys would be another statement, and SQLite would read all of the table.
    given = json_rows(sa.bindparam("keys", type_=sa.Text())).table_valued("value")
    model_id, number = (sa.cast(given.c.value.op("->>")(at), sa.BigInteger) for at in _COLUMNS)
    columns = table.__table__.c
    return given, sa.and_(columns.model_id == model_id, columns.number == number)


def given(keys: Sequence[Key]) -> dict[str, str]:
    """The parameter of a statement with `belong`."""
    return {"keys": json.dumps(keys)}


_COLUMNS: tuple[Any, Any] = (sa.literal_column("0"), sa.literal_column("1"))


class json_rows(sa.sql.functions.FunctionElement[Any]):  # noqa: N801 - reads as the SQL function it is
    """The elements of a JSON array, a row each, in the column `value`."""

    inherit_cache = True


@compiles(json_rows, "sqlite")
def _rows_sqlite(element: Any, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(json_rows, "postgresql")
def _rows_postgresql(element: Any, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_array_elements(CAST({compiler.process(element.clauses, **options)} AS JSON))"

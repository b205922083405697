"""What SQLite has to be told about searches, and PostgreSQL finds by itself: in which order to join, which index not to use."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler


class in_this_order(sa.sql.expression.Join):  # noqa: N801 - reads as what it does
    """A join whose left side is the outer loop."""

    inherit_cache = True


@compiles(in_this_order, "sqlite")
def _cross_join(element: Any, compiler: SQLCompiler, **options: Any) -> str:
    left, right = (compiler.process(side, **options) for side in (element.left, element.right))
    return (
        f"{left} CROSS JOIN {right} ON {compiler.process(element.onclause, **{**options, 'asfrom': False})}"
    )


class unindexed(sa.sql.functions.FunctionElement[Any]):  # noqa: N801 - as above
    """A column, by which nothing is looked up."""

    inherit_cache = True

    def __init__(self, column: sa.ColumnElement[Any]) -> None:
        super().__init__(column)
        self.type = column.type


@compiles(unindexed)
def _column(element: Any, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(unindexed, "sqlite")
def _plus_column(element: Any, compiler: SQLCompiler, **options: Any) -> str:
    return f"+{compiler.process(element.clauses, **options)}"

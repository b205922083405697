"""Keys of versions, and the rows of other tables that belong to some of them."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

Key = tuple[int, int]
"""model_id and number."""


def belong(table: Any, keys: Sequence[Key]) -> sa.ColumnElement[bool]:
    """The rows of a table with the columns `model_id` and `number` that belong to these versions."""
    models = {model_id for model_id, _ in keys}
    if len(models) == 1:
        return sa.and_(table.model_id == models.pop(), table.number.in_([number for _, number in keys]))
    return sa.tuple_(table.model_id, table.number).in_(keys)

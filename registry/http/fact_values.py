"""Values of facts on the wire: a string, a number, a boolean, or {"time": "2026-11-22T10:00:00Z"}."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictBool,
    StringConstraints,
    WithJsonSchema,
)

from registry import facts
from registry.facts_tables import MAX_TEXT

# strftime writes earlier years with less than four digits.
EARLIEST = datetime(1000, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 12, 30, tzinfo=UTC)

Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]


def _is_time(text: str) -> str:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None or not EARLIEST <= moment <= LATEST:
        raise ValueError("not a point in time")
    return text


Moment = Annotated[str, Field(max_length=40, examples=["2026-11-22T10:00:00Z"]), AfterValidator(_is_time)]


class TimeValue(BaseModel):
    """A point in time, with its offset from UTC."""

    model_config = ConfigDict(extra="forbid")

    time: Moment


_Text = Annotated[str, StringConstraints(max_length=MAX_TEXT, pattern=r"^[^\x00]*$")]
FactValue = StrictBool | Finite | _Text | TimeValue


def value_of(given: FactValue | None) -> facts.Value | None:
    return datetime.fromisoformat(given.time) if isinstance(given, TimeValue) else given


def values_of(given: Mapping[str, FactValue | None]) -> dict[str, facts.Value | None]:
    return {name: value_of(value) for name, value in given.items()}


def _wire(value: facts.Value | None) -> Any:
    if isinstance(value, datetime):
        return {"time": value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
    return value


_SHAPES = [{"type": kind} for kind in ("string", "number", "boolean")] + [
    {
        "type": "object",
        "properties": {"time": {"type": "string", "format": "date-time"}},
        "required": ["time"],
    }
]
Shown = Annotated[Any, PlainSerializer(_wire), WithJsonSchema({"anyOf": _SHAPES})]
ShownIfAny = Annotated[Any, PlainSerializer(_wire), WithJsonSchema({"anyOf": [*_SHAPES, {"type": "null"}]})]

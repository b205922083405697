"""Arrays and data frames as tensors of the Open Inference Protocol V2.

    ndarray (n, k)     ──>  one input "input", shape [-1, k]
    DataFrame          ──>  one input per column, shape [-1, 1] each
    list of texts      ──>  one input "input", BYTES, shape [-1]

An example is recorded as JSON, which has no NaN, no infinity and no missing value: such an example is refused, and so is
everything that has no datatype in the protocol. What the estimator is asked is rebuilt from the recorded tensors, so that
the recorded answer is the one that serving must give.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelyard._errors import CaptureError
from modelyard._types import Tensor

MAX_ROWS = 1000

Array = npt.NDArray[Any]

_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "object": "BYTES",
}


@dataclass(frozen=True, slots=True)
class NamedArray:
    """A named tensor with values; text is an object array of str."""

    name: str
    values: Array

    @property
    def datatype(self) -> str:
        return _DATATYPES[self.values.dtype.name]

    def tensor(self) -> Tensor:
        """Its description, for any number of rows."""
        return Tensor(self.name, self.datatype, (-1, *self.values.shape[1:]))

    def to_wire(self) -> dict[str, Any]:
        """Name, shape, datatype and the flat data, as in a V2 inference request."""
        return {
            "name": self.name,
            "shape": list(self.values.shape),
            "datatype": self.datatype,
            "data": self.values.ravel().tolist(),
        }


@dataclass(frozen=True, slots=True)
class Example:
    """Example inputs: as named tensors, and as what the estimator is asked."""

    tensors: tuple[NamedArray, ...]
    data: Any

    @property
    def rows(self) -> int:
        return len(self.tensors[0].values)


def read_example(example: Any) -> Example:
    """Make an Example of an array, a nested list or a pandas DataFrame; raise CaptureError for what cannot be recorded."""
    if type(example).__module__.partition(".")[0] == "pandas" and hasattr(example, "columns"):
        return _read_frame(example)
    if hasattr(example, "columns") or hasattr(example, "toarray"):
        raise CaptureError(
            f"The example is a {type(example).__name__}: expected a dense numpy array or a pandas DataFrame of a few rows."
        )
    values = _plain("example", _as_array("example", example))
    if values.ndim != 2 and not (values.ndim == 1 and values.dtype == object):
        raise CaptureError(
            f"The example has shape {values.shape}: expected (rows, features), for instance X[:5]; a single row is X[:1]."
        )
    return _checked(Example((NamedArray("input", values),), values))


def _read_frame(frame: Any) -> Example:
    import pandas as pd

    names = list(frame.columns)
    if (
        not names
        or not all(isinstance(name, str) and name for name in names)
        or len(set(names)) != len(names)
    ):
        raise CaptureError(
            "The example's columns need names that are strings, not empty, and not given twice."
        )
    columns = {name: _plain(f"column {name!r}", frame[name].to_numpy()) for name in names}
    tensors = tuple(NamedArray(name, values.reshape(-1, 1)) for name, values in columns.items())
    return _checked(Example(tensors, pd.DataFrame(columns)))


def _checked(example: Example) -> Example:
    if not 1 <= example.rows <= MAX_ROWS:
        raise CaptureError(f"The example has {example.rows} rows: a handful is enough, for instance X[:5].")
    return example


def read_answer(name: str, answer: Any, rows: int) -> NamedArray:
    """Name what an estimator answered for `rows` rows; raise CaptureError when it cannot be recorded."""
    what = f"the estimator's {name}"
    values = _plain(what, _as_array(what, answer))
    if values.ndim == 0 or len(values) != rows:
        raise CaptureError(
            f"The estimator's {name} has shape {values.shape} for {rows} rows: expected one answer per row."
        )
    return NamedArray(name, values)


def _as_array(what: str, given: Any) -> Array:
    try:
        return np.asarray(given)
    except ValueError as error:
        raise CaptureError(f"{what} is no array: {error}") from error


def _plain(what: str, values: Array) -> Array:
    """`values` in native byte order with a datatype that the protocol has; text as objects."""
    if values.dtype.kind in "OU":
        return _text(what, values)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise CaptureError(
            f"{what} has NaN or infinite values, which JSON cannot record: use rows without them."
        )
    if values.dtype.newbyteorder("=").name not in _DATATYPES:
        raise CaptureError(
            f"{what} has dtype {values.dtype}: expected booleans, integers, floats up to 64 bits, or text."
        )
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _text(what: str, values: Array) -> Array:
    objects = values.astype(object)
    others = sorted({type(each).__name__ for each in objects.flat if not isinstance(each, str)})
    if others:
        raise CaptureError(
            f"{what} mixes text with or consists of {', '.join(others)}: expected text or numbers only, none missing. "
            "Columns of different kinds belong into a DataFrame."
        )
    return objects

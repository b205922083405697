"""Tensors: the datatypes of the Open Inference Protocol V2 as numpy arrays, from JSON and back.

    BOOL  UINT8…UINT64  INT8…INT64  FP16 FP32 FP64     the numpy type of the same size
    BYTES                                              an object array of str

    JSON text ──typed msgspec decoder──▶ list ──numpy──▶ ndarray ──▶ list ──▶ JSON text

The decoder is chosen by the datatype, so a string where numbers belong is refused while it is read: nothing is
converted that the caller did not write. What JSON cannot say (NaN, Infinity) is not taken; in answers it becomes null.
"""

import math
import re
from functools import lru_cache
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving_adapter.errors import BadInput

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
DATATYPES = {dtype: name for name, dtype in DTYPES.items()}

# A list whose first element is a list, before anything is parsed.
_NESTED = re.compile(rb"[ \t\r\n]*\[[ \t\r\n]*\[")
_KINDS = {"b": bool, "u": int, "i": int, "f": float, "O": str}
_WORDS = {"b": "true or false", "u": "whole numbers", "i": "whole numbers", "f": "numbers", "O": "strings"}
# From here on a number rounds to infinity.
_INFINITE_FROM = {"FP16": 65520.0, "FP32": 3.4028235677973366e38}


class TensorSpec(msgspec.Struct, frozen=True):
    """Name, datatype and shape of one input or output; -1 in `shape` stands for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.datatype} of shape {list(self.shape)}"


class Signature(msgspec.Struct, frozen=True):
    """What a model takes and gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


Name = Annotated[str, msgspec.Meta(max_length=256)]
Size = Annotated[int, msgspec.Meta(ge=1, le=2**40)]
# numpy takes 64 dimensions; no model that is served comes near.
Shape = Annotated[list[Size], msgspec.Meta(max_length=32)]


class JsonTensor(msgspec.Struct):
    """A tensor as the protocol's JSON has it. `data` stays text until the datatype says how to read it."""

    name: Name
    shape: Shape
    datatype: str
    data: msgspec.Raw = msgspec.Raw()


def fits(array: Array, spec: TensorSpec) -> bool:
    """Whether datatype and shape are those that `spec` asks for."""
    return (
        array.dtype == DTYPES.get(spec.datatype)
        and array.ndim == len(spec.shape)
        and all(want in (-1, size) for want, size in zip(spec.shape, array.shape, strict=True))
    )


def describe(array: Array) -> str:
    return f"{DATATYPES.get(array.dtype, array.dtype)} of shape {list(array.shape)}"


def decode(tensor: JsonTensor) -> Array:
    """Read the data, flat or nested as the shape is; raise BadInput saying what was expected.

    Every value must be exactly representable as its kind: 300 is no UINT8, 1.5 no INT64, "1" no FP32, 1e39 no FP32.
    """
    dtype = _dtype(tensor)
    shape = tuple(tensor.shape)
    text = bytes(tensor.data)
    if not text:
        raise BadInput(
            f"tensor '{tensor.name}' has no data: this version reads JSON tensors, not binary ones"
        )
    nested = len(shape) > 1 and _NESTED.match(text) is not None
    array = _to_array(tensor, dtype, _read(tensor, len(shape) if nested else 1, text))
    if array.size != math.prod(shape) or (nested and array.shape != shape):
        raise BadInput(
            f"tensor '{tensor.name}': shape {list(shape)} needs {math.prod(shape)} values; "
            f"data has {array.size} in shape {list(array.shape)}"
        )
    return array.reshape(shape)


def encode(array: Array) -> list[Any]:
    """The values in row-major order, as Python objects that JSON has; BYTES that are not text become text lossily."""
    values: list[Any] = array.ravel().tolist()
    if array.dtype == np.object_:
        return [_text(value) for value in values]
    return values


def as_datatype(array: Array, datatype: str) -> Array:
    """`array` in the numpy type of `datatype`; raise ValueError if that would change what it says."""
    dtype = DTYPES[datatype]
    if array.dtype == dtype:
        return array
    if dtype == np.object_ and array.dtype.kind in "US":
        return array.astype(object)
    if np.object_ in (dtype, array.dtype) or not np.can_cast(array.dtype, dtype, "same_kind"):
        raise ValueError(f"{array.dtype} does not become {datatype}")
    cast = array.astype(dtype)
    if dtype.kind in "iu" and (cast != array).any():
        raise ValueError(f"{array.dtype} does not become {datatype}: a value is outside its range")
    return cast


def _dtype(tensor: JsonTensor) -> np.dtype[Any]:
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise BadInput(f"tensor '{tensor.name}': no such datatype; expected one of {', '.join(DTYPES)}")
    return dtype


def _read(tensor: JsonTensor, depth: int, text: bytes) -> list[Any]:
    try:
        return _decoder(tensor.datatype, depth).decode(text)
    except msgspec.DecodeError as error:
        words = _WORDS[DTYPES[tensor.datatype].kind]
        raise BadInput(
            f"tensor '{tensor.name}': {tensor.datatype} of shape {tensor.shape} takes {words}, "
            f"in one flat list or nested as the shape is: {error}"
        ) from error


@lru_cache(maxsize=256)
def _decoder(datatype: str, depth: int) -> msgspec.json.Decoder[list[Any]]:
    wanted: Any = _KINDS[DTYPES[datatype].kind]
    if datatype in _INFINITE_FROM:
        limit = _INFINITE_FROM[datatype]
        wanted = Annotated[float, msgspec.Meta(gt=-limit, lt=limit)]
    for _ in range(depth):
        wanted = list[wanted]
    return msgspec.json.Decoder(wanted)


def _to_array(tensor: JsonTensor, dtype: np.dtype[Any], values: list[Any]) -> Array:
    try:
        return np.array(values, dtype=dtype)
    except OverflowError as error:
        raise BadInput(
            f"tensor '{tensor.name}': a value is outside the range of {tensor.datatype}"
        ) from error
    except ValueError as error:
        raise BadInput(f"tensor '{tensor.name}': the nested lists are not all equally long") from error


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

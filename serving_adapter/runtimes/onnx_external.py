"""Does an ONNX model refer to tensors in other files? Found out by walking its protobuf, before any library opens it.

    ModelProto ─7─▶ GraphProto ─1─▶ NodeProto ─5─▶ AttributeProto ─5,10─▶ TensorProto ─13─▶ external_data   ◀── refused
        │              ├─5─▶ TensorProto   ▲            ├─6,11─▶ GraphProto       └────14─▶ data_location
        │              └─15─▶ SparseTensor │            └─22,23─▶ SparseTensor ─1,2─▶ TensorProto
        ├─20─▶ TrainingInfo ─1,2─▶ GraphProto
        └─25─▶ FunctionProto ─7────────────┘

Field numbers from onnx/onnx.proto (github.com/onnx/onnx); the wire format from protobuf.dev/programming-guides/encoding.
Only these fields are entered; everything else, weights above all, is skipped by its length.
"""

from collections.abc import Iterator

_TENSOR, _SPARSE, _GRAPH, _NODE, _ATTRIBUTE, _FUNCTION, _TRAINING, _MODEL = range(8)

_CHILDREN: dict[int, dict[int, int]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_MAX_TAG = 2**32 - 1  # a parser that reads tags into 32 bits would see another field than this walk does


class Malformed(ValueError):
    """Not a protobuf message."""


def has_external_data(model: bytes) -> bool:
    """Whether any tensor of the model lies in another file; raise Malformed if that cannot be told."""
    view = memoryview(model)
    pending = [(_MODEL, 0, len(view))]
    while pending:
        message, at, end = pending.pop()
        for field, start, stop in _fields(view, at, end):
            if message == _TENSOR and _is_elsewhere(field, view[start:stop]):
                return True
            if field in _CHILDREN[message]:
                pending.append((_CHILDREN[message][field], start, stop))
    return False


def _is_elsewhere(field: int, value: memoryview) -> bool:
    return field == _EXTERNAL_DATA or (field == _DATA_LOCATION and any(byte & 0x7F for byte in value))


def _fields(view: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Each field of the message in view[at:end]: its number, and where its value starts and stops."""
    while at < end:
        tag, start = _varint(view, at, end)
        start, stop = _extent(view, tag & 7, start, end)
        if stop > end or tag > _MAX_TAG:
            raise Malformed("a protobuf field does not fit into what holds it")
        yield tag >> 3, start, stop
        at = stop


def _extent(view: memoryview, wire: int, at: int, end: int) -> tuple[int, int]:
    match wire:
        case 0:  # varint
            return at, _varint(view, at, end)[1]
        case 1:  # 64 bits
            return at, at + 8
        case 2:  # a length, then as many bytes
            length, start = _varint(view, at, end)
            return start, start + length
        case 5:  # 32 bits
            return at, at + 4
    raise Malformed("a protobuf field has an unknown wire type")


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    """The number at `at`, least significant seven bits first, and where it ends."""
    value = shift = 0
    while at < end and shift < 70:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise Malformed("a protobuf number does not end")

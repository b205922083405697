"""Tensors between JSON and numpy: what is read is exactly what was written, and anything else is refused."""

from typing import Any

import hypothesis.extra.numpy as nps
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_adapter.errors import BadInput
from serving_adapter.tensors import (
    DATATYPES,
    DTYPES,
    Array,
    JsonTensor,
    TensorSpec,
    as_datatype,
    decode,
    encode,
    fits,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(nps.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=4))
    elements = TEXT if dtype.kind == "O" else nps.from_dtype(dtype, allow_nan=False, allow_infinity=False)
    return draw(nps.arrays(dtype, shape, elements=elements))


def wire(array: Array, data: Any) -> JsonTensor:
    tensor = {"name": "x", "datatype": DATATYPES[array.dtype], "shape": array.shape, "data": data}
    return msgspec.json.decode(msgspec.json.encode(tensor), type=JsonTensor)


def tensor(datatype: str, shape: list[int], data: str) -> JsonTensor:
    return JsonTensor("x", shape, datatype, msgspec.Raw(data.encode()))


def assert_same(one: Array, other: Array) -> None:
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert (one == other).all()


@given(arrays())
def test_what_is_encoded_is_decoded_again(array: Array) -> None:
    """Flat data, every datatype: not one bit is lost on the way through JSON."""
    assert_same(decode(wire(array, encode(array))), array)


@given(arrays())
def test_nested_data_are_the_same_as_flat(array: Array) -> None:
    nested = array.tolist() if array.ndim else [array.item()]
    assert_same(decode(wire(array, nested)), array)


@given(arrays(), st.data())
def test_a_wrong_number_of_values_is_refused(array: Array, data: st.DataObject) -> None:
    values = encode(array)
    count = data.draw(st.integers(0, 2 * len(values) + 1).filter(lambda n: n != len(values)))
    cut = (values * 3)[:count]
    with pytest.raises(BadInput, match="values"):
        decode(wire(array, cut))


@given(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(1, 3), max_size=3), st.binary(max_size=20))
def test_no_bytes_raise_anything_but_bad_input(datatype: str, shape: list[int], junk: bytes) -> None:
    with pytest.raises(BadInput):
        decode(JsonTensor("x", shape, datatype, msgspec.Raw(b"[" + junk + b"[")))


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "expected"),
    [
        ("UINT8", [1], "[300]", "outside the range of UINT8"),
        ("UINT8", [1], "[-1]", "outside the range of UINT8"),
        ("INT8", [1], "[128]", "outside the range of INT8"),
        ("UINT64", [1], "[18446744073709551616]", "outside the range of UINT64"),
        ("INT64", [1], "[1.5]", "takes whole numbers"),
        ("INT64", [1], "[true]", "takes whole numbers"),
        ("INT64", [1], '["1"]', "takes whole numbers"),
        ("FP32", [1], '["1"]', "takes numbers"),
        ("FP32", [1], "[true]", "takes numbers"),
        ("FP32", [1], "[null]", "takes numbers"),
        ("FP32", [1], "[NaN]", "takes numbers"),
        ("FP32", [1], "[Infinity]", "takes numbers"),
        ("FP32", [1], "[1e39]", "takes numbers.*< 3.4"),
        ("FP32", [1], "[-3.4028235677973366e38]", "takes numbers.*> -3.4"),
        ("FP16", [1], "[65520]", "takes numbers.*< 65520"),
        ("FP64", [1], "[1e999]", "takes numbers"),
        ("BOOL", [1], "[1]", "takes true or false"),
        ("BYTES", [1], "[1]", "takes strings"),
        ("BYTES", [1], '["\\ud800"]', "takes strings"),
        ("FP32", [2, 2], "[1,2,3]", "needs 4 values"),
        ("FP32", [2, 2], "[[1,2],[3]]", "equally long"),
        ("BYTES", [2, 2], '[["a"],["b","c"]]', "needs 4 values"),
        ("FP32", [2, 3], "[[1,2],[3,4],[5,6]]", r"data has 6 in shape \[3, 2\]"),
        ("FP32", [4], "[[1,2],[3,4]]", "takes numbers"),
        ("FP32", [2, 2], "[[[1],[2]],[[3],[4]]]", "takes numbers"),
        ("FP32", [1], "1", "takes numbers"),
        ("FP32", [1], "{}", "takes numbers"),
        ("FP32", [1], "", "binary"),
        ("BF16", [1], "[1]", "expected one of BOOL"),
        ("fp32", [1], "[1]", "expected one of BOOL"),
    ],
)
def test_what_the_datatype_cannot_hold_is_refused(
    datatype: str, shape: list[int], data: str, expected: str
) -> None:
    """Nothing is rounded, wrapped, parsed or converted; the message names the tensor and what was expected."""
    with pytest.raises(BadInput, match=expected) as caught:
        decode(tensor(datatype, shape, data))
    assert "'x'" in str(caught.value)


def test_whole_numbers_are_floats_too() -> None:
    assert_same(decode(tensor("FP32", [2], "[1, 2.5]")), np.array([1, 2.5], np.float32))


def test_the_largest_numbers_are_finite() -> None:
    """Half a step below the limit still rounds down; numpy would warn if it did not."""
    assert np.isfinite(decode(tensor("FP32", [1], "[3.4028235677973362e38]"))).all()
    assert np.isfinite(decode(tensor("FP16", [1], "[-65519.99]"))).all()


def test_white_space_does_not_hide_nesting() -> None:
    assert_same(decode(tensor("INT8", [1, 2], " \n[\t [1, 2] ]")), np.array([[1, 2]], np.int8))


@pytest.mark.parametrize("shape", [[0], [-1], [2**41], [1] * 33, [1.5], ["1"], [True]])
def test_an_impossible_shape_is_refused_while_it_is_read(shape: list[Any]) -> None:
    body = msgspec.json.encode({"name": "x", "datatype": "FP32", "shape": shape, "data": [1]})
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=JsonTensor)


def test_what_json_cannot_say_becomes_null() -> None:
    assert msgspec.json.encode(encode(np.array([1.0, np.nan, np.inf]))) == b"[1.0,null,null]"


def test_bytes_that_are_no_text_become_text_lossily() -> None:
    assert encode(np.array([b"ok", b"\xff", "s"], object)) == ["ok", "\ufffd", "s"]


def test_a_spec_fits_any_size_only_where_it_says_so() -> None:
    spec = TensorSpec("x", "FP32", (-1, 3))
    assert fits(np.zeros((7, 3), np.float32), spec)
    assert not fits(np.zeros((7, 2), np.float32), spec)
    assert not fits(np.zeros((7, 3), np.float64), spec)
    assert not fits(np.zeros(3, np.float32), spec)


@pytest.mark.parametrize(
    ("array", "datatype", "expected"),
    [
        (np.array([1.5], np.float32), "FP64", np.array([1.5])),
        (np.array([1], np.int32), "INT64", np.array([1])),
        (np.array([1], np.int64), "FP32", np.array([1], np.float32)),
        (np.array([7], np.int64), "UINT8", None),
        (np.array(["a"]), "BYTES", np.array(["a"], object)),
        (np.array([1.5]), "INT64", None),
        (np.array([2**40]), "INT32", None),
        (np.array(["1"]), "FP64", None),
        (np.array(["1"], object), "FP64", None),
        (np.array([1.0]), "BYTES", None),
    ],
)
def test_answers_are_cast_only_where_they_say_the_same(
    array: Array, datatype: str, expected: Array | None
) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="does not become"):
            as_datatype(array, datatype)
    else:
        assert_same(as_datatype(array, datatype), expected)

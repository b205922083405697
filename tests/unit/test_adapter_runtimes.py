"""Runtimes: real ONNX and scikit-learn models are answered with, and unsafe or damaged files are refused."""

import contextlib
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import skops.io
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, Perceptron
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from serving_adapter.errors import BadInput
from serving_adapter.runtimes import onnx as onnx_runtime
from serving_adapter.runtimes import sklearn as sklearn_runtime
from serving_adapter.runtimes.base import LoadFailed, Options
from serving_adapter.runtimes.onnx_external import Malformed, has_external_data
from serving_adapter.tensors import Signature, TensorSpec

X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 1.0]])
Y = np.array([0, 0, 1, 1])


def adding(
    constant: onnx.TensorProto | None = None, *, body: onnx.GraphProto | None = None
) -> onnx.ModelProto:
    """Answers y = x + 1, with the constant as given, perhaps inside the branch of an If."""
    constant = constant or numpy_helper.from_array(np.array([1.0], np.float32), "c")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])
    nodes = [helper.make_node("Add", ["x", "c"], ["y"])]
    initializers = [constant]
    if body is not None:
        condition = numpy_helper.from_array(np.array(True), "yes")
        nodes = [helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=body)]
        initializers = [condition]
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def external(location: str = "../../etc/passwd") -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.array([1.0], np.float32), "c")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def load_onnx(model: onnx.ModelProto | bytes, tmp_path: Path, options: Options | None = None) -> Any:
    path = tmp_path / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return onnx_runtime.load(path, options or Options())


def test_an_onnx_model_answers_and_declares_its_signature(tmp_path: Path) -> None:
    runtime = load_onnx(adding(), tmp_path)
    assert runtime.signature == Signature(
        (TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("y", "FP32", (-1, 1)),)
    )
    assert runtime.predict({"x": np.array([[1], [2]], np.float32)})["y"].tolist() == [[2], [3]]


def test_inputs_are_cast_to_what_the_graph_has_inside(tmp_path: Path) -> None:
    promised = Signature((TensorSpec("x", "FP64", (-1, 1)),), (TensorSpec("y", "FP32", (-1, 1)),))
    runtime = load_onnx(adding(), tmp_path, Options(promised))
    assert runtime.predict({"x": np.array([[1.0]])})["y"].tolist() == [[2]]


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        (
            TensorSpec("x", "BYTES", (-1, 1)),
            TensorSpec("y", "FP32", (-1, 1)),
            "input 'x' is FP32 in the model, BYTES",
        ),
        (
            TensorSpec("z", "FP32", (-1, 1)),
            TensorSpec("y", "FP32", (-1, 1)),
            r"inputs \['x'\]; its signature says",
        ),
        (TensorSpec("x", "FP32", (-1, 1)), TensorSpec("z", "FP32", (-1, 1)), r"also promises \['z'\]"),
    ],
)
def test_a_graph_that_is_not_what_the_signature_says_is_refused(
    tmp_path: Path, inputs: TensorSpec, outputs: TensorSpec, expected: str
) -> None:
    with pytest.raises(LoadFailed, match=expected):
        load_onnx(adding(), tmp_path, Options(Signature((inputs,), (outputs,))))


def in_sparse() -> onnx.ModelProto:
    model = adding()
    values, indices = external(), numpy_helper.from_array(np.array([0]), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1]))
    return model


def in_attribute() -> onnx.ModelProto:
    model = adding()
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=external()))
    return model


def in_branch() -> onnx.ModelProto:
    y = helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n", 1])
    branch = helper.make_graph([helper.make_node("Add", ["x", "c"], ["b"])], "b", [], [y], [external()])
    return adding(body=branch)


def in_function() -> onnx.ModelProto:
    model = adding()
    node = helper.make_node("Constant", [], ["o"], value=external())
    model.functions.append(helper.make_function("d", "f", [], ["o"], [node], [helper.make_opsetid("", 17)]))
    return model


def in_training() -> onnx.ModelProto:
    model = adding()
    model.training_info.add().algorithm.initializer.append(external())
    return model


def without_location() -> onnx.ModelProto:
    tensor = external()
    tensor.ClearField("data_location")
    return adding(tensor)


@pytest.mark.parametrize(
    "make",
    [
        lambda: adding(external()),
        in_sparse,
        in_attribute,
        in_branch,
        in_function,
        in_training,
        without_location,
    ],
)
def test_tensors_in_other_files_are_refused_wherever_they_hide(
    make: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    with pytest.raises(LoadFailed, match="other files"):
        load_onnx(make(), tmp_path)


def test_a_plain_model_has_no_external_data() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["b"])],
        "b",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n", 1])],
    )
    assert not has_external_data(adding().SerializeToString())
    assert not has_external_data(adding(body=branch).SerializeToString())


def test_an_overlong_tag_cannot_hide_a_field() -> None:
    """Parsers that keep 32 bits of a tag would read another field than a walk that keeps them all."""
    graph_field = 7 << 3 | 2
    hidden = bytes([graph_field & 0x7F | 0x80, 0x80, 0x80, 0x80, 0x10, 0x00])
    with pytest.raises(Malformed):
        has_external_data(hidden)


@given(st.binary(max_size=100))
def test_any_bytes_are_walked_to_an_end(junk: bytes) -> None:
    with contextlib.suppress(Malformed):
        has_external_data(junk)


@settings(max_examples=50)
@given(st.data())
def test_a_damaged_model_is_refused_or_loaded_and_never_reads_other_files(data: st.DataObject) -> None:
    content = bytearray(adding(external()).SerializeToString())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    try:
        external_data = has_external_data(bytes(content))
    except Malformed:
        return
    if not external_data:
        try:
            parsed = onnx.ModelProto.FromString(bytes(content))
        except DecodeError:
            return
        assert not any(t.external_data or t.data_location for t in parsed.graph.initializer)


def test_garbage_is_no_onnx_model(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="not an ONNX model"):
        load_onnx(b"\x00garbage" * 100, tmp_path)


def test_a_closed_onnx_model_does_not_answer(tmp_path: Path) -> None:
    runtime = load_onnx(adding(), tmp_path)
    runtime.close()
    with pytest.raises(RuntimeError, match="closed"):
        runtime.predict({"x": np.zeros((1, 1), np.float32)})


def load_skops(estimator: Any, tmp_path: Path, options: Options | None = None) -> Any:
    skops.io.dump(estimator, tmp_path / "model.skops")
    return sklearn_runtime.load(tmp_path / "model.skops", options or Options())


def columns(*names: str, outputs: tuple[str, ...] = ("label",)) -> Options:
    return Options(
        Signature(
            tuple(TensorSpec(name, "FP64", (-1, 1)) for name in names),
            tuple(TensorSpec(name, "INT64", (-1,)) for name in outputs),
        )
    )


def test_a_classifier_answers_label_and_probabilities(tmp_path: Path) -> None:
    model = LogisticRegression().fit(X, Y)
    answer = load_skops(model, tmp_path).predict({"input": X})
    assert (answer["label"] == model.predict(X)).all()
    assert (answer["probabilities"] == model.predict_proba(X)).all()


def test_a_classifier_without_probabilities_answers_the_label(tmp_path: Path) -> None:
    assert load_skops(Perceptron().fit(X, Y), tmp_path).predict({"input": X}).keys() == {"label"}


def test_a_regressor_answers_a_prediction(tmp_path: Path) -> None:
    model = LinearRegression().fit(X, Y)
    assert (load_skops(model, tmp_path).predict({"input": X})["prediction"] == model.predict(X)).all()


def test_only_what_the_signature_promises_is_computed(tmp_path: Path) -> None:
    options = Options(
        Signature((TensorSpec("input", "FP64", (-1, 2)),), (TensorSpec("label", "INT64", (-1,)),))
    )
    assert load_skops(LogisticRegression().fit(X, Y), tmp_path, options).predict({"input": X}).keys() == {
        "label"
    }


def test_columns_become_the_data_frame_that_the_estimator_was_fitted_on(tmp_path: Path) -> None:
    """In the estimator's order, whatever the order of the request."""
    frame = pd.DataFrame({"b": X[:, 0], "a": X[:, 1]})
    model = LogisticRegression().fit(frame, Y)
    runtime = load_skops(model, tmp_path, columns("a", "b"))
    answer = runtime.predict({"a": X[:, 1:], "b": X[:, :1]})
    assert (answer["label"] == model.predict(frame)).all()


def test_columns_of_different_length_are_the_callers_mistake(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": X[:, 0], "b": X[:, 1]})
    runtime = load_skops(LogisticRegression().fit(frame, Y), tmp_path, columns("a", "b"))
    with pytest.raises(BadInput, match="same number of rows"):
        runtime.predict({"a": X[:, :1], "b": X[:2, :1]})


def test_texts_are_passed_on_as_they_are(tmp_path: Path) -> None:
    texts = np.array(["good day", "bad day", "good", "bad"], object)
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(texts, Y)
    options = Options(
        Signature((TensorSpec("input", "BYTES", (-1,)),), (TensorSpec("label", "INT64", (-1,)),))
    )
    answer = load_skops(model, tmp_path, options).predict({"input": texts})
    assert (answer["label"] == model.predict(texts)).all()


@pytest.mark.parametrize("inputs", [{}, {"a": X, "b": X}, {"a": X[0]}, {"a": np.array([["x"]], object)}])
def test_without_a_signature_one_numeric_matrix_is_expected(inputs: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="one numeric input of two dimensions"):
        load_skops(LogisticRegression().fit(X, Y), tmp_path).predict(inputs)


def test_a_type_that_is_not_trusted_is_refused_by_name_unless_the_operator_trusts_it(tmp_path: Path) -> None:
    model = make_pipeline(FunctionTransformer(np.copy), LogisticRegression()).fit(X, Y)
    skops.io.dump(model, tmp_path / "model.skops")
    untrusted = skops.io.get_untrusted_types(file=tmp_path / "model.skops")
    assert untrusted
    with pytest.raises(LoadFailed, match=untrusted[0]):
        sklearn_runtime.load(tmp_path / "model.skops", Options())
    trusting = Options(trusted_types=tuple(untrusted))
    assert sklearn_runtime.load(tmp_path / "model.skops", trusting).predict({"input": X}).keys()


class Trap:
    """Pickled, it leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def pickled(mark: Path) -> bytes:
    return pickle.dumps(Trap(mark))


def zipped_pickle(mark: Path) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("schema.json", pickled(mark))
    return archive.getvalue()


@pytest.mark.parametrize("make", [pickled, zipped_pickle, lambda _: b"", lambda _: b"PK\x03\x04"])
def test_a_pickle_is_never_unpickled(make: Callable[[Path], bytes], tmp_path: Path) -> None:
    """A safe loader that fails falls back to nothing."""
    mark, path = tmp_path / "mark", tmp_path / "model.skops"
    path.write_bytes(make(mark))
    with pytest.raises(LoadFailed, match="not a skops file"):
        sklearn_runtime.load(path, Options())
    assert not mark.exists()


def test_what_cannot_predict_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="no estimator"):
        load_skops({"a": 1}, tmp_path)

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import modelyard
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import skops.io
from modelyard import CaptureError, MissingDependency, Signature, Tensor, UnsupportedModel, Variant
from modelyard._capture import Captured, capture
from modelyard._convert import NotConvertible, convert
from modelyard._tensors import NamedArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import (
    GradientBoostingClassifier,
    IsolationForest,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from tests.unit.sdk_fake import FakeRegistry

X, Y = load_breast_cancer(return_X_y=True)
FRAME = load_breast_cancer(as_frame=True).data
XR, YR = load_diabetes(return_X_y=True)
PEOPLE = pd.DataFrame(
    {
        "age in years": [21.0, 35.5, 47.0, 52.5, 63.0, 38.0, 29.5, 71.0],
        "visits": [1, 0, 5, 3, 8, 2, 1, 9],
        "città": ["roma", "oslo", "roma", "bern", "oslo", "bern", "roma", "oslo"],
    }
)
CLICKED = np.array([0, 0, 1, 1, 1, 0, 0, 1])
BOTH = [Variant("sklearn-skops", "model.skops"), Variant("onnx", "model.onnx")]


def people_pipeline() -> Any:
    columns = [
        ("numbers", StandardScaler(), ["age in years", "visits"]),
        ("words", OneHotEncoder(), ["città"]),
    ]
    return make_pipeline(ColumnTransformer(columns), LogisticRegression())


def recorded(folder: Path, side: str) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of the example file, as a serving adapter would read them."""
    dtypes = {"BYTES": object, "FP64": np.float64, "FP32": np.float32, "INT64": np.int64, "INT32": np.int32}
    dtypes |= {"BOOL": np.bool_, "UINT8": np.uint8, "FP16": np.float16}
    content = json.loads((folder / "modelyard" / "example.json").read_text(encoding="utf-8"))
    return {t["name"]: np.array(t["data"], dtypes[t["datatype"]]).reshape(t["shape"]) for t in content[side]}


def assert_graph_answers_as_recorded(folder: Path, signature: Signature) -> None:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == [each.name for each in signature.inputs]
    assert [each.name for each in session.get_outputs()] == [each.name for each in signature.outputs]
    expected = recorded(folder, "outputs")
    for name, answer in zip(expected, session.run(None, recorded(folder, "inputs")), strict=True):
        answer = answer.reshape(expected[name].shape)  # noqa: PLW2901 - as the adapter does
        if expected[name].dtype.kind == "f":
            np.testing.assert_allclose(answer, expected[name], rtol=1e-3, atol=1e-5)
        else:
            assert (answer == expected[name]).all()


def captured_quietly(estimator: Any, example: Any, folder: Path) -> Captured:
    captured = capture(estimator, example, folder)
    assert captured.notes == []
    return captured


def test_a_classifier_becomes_two_variants_a_signature_and_a_recorded_answer(tmp_path: Path) -> None:
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    captured = captured_quietly(pipeline, X[:5], tmp_path)
    assert captured.variants == BOTH
    assert captured.example == "modelyard/example.json"
    assert captured.signature == Signature(
        inputs=(Tensor("input", "FP64", (-1, 30)),),
        outputs=(Tensor("label", "INT64", (-1,)), Tensor("probabilities", "FP64", (-1, 2))),
    )
    assert (recorded(tmp_path, "inputs")["input"] == X[:5]).all()
    assert (recorded(tmp_path, "outputs")["label"] == pipeline.predict(X[:5])).all()
    assert (recorded(tmp_path, "outputs")["probabilities"] == pipeline.predict_proba(X[:5])).all()
    assert_graph_answers_as_recorded(tmp_path, captured.signature)
    assert (skops.io.load(tmp_path / "model.skops").predict(X) == pipeline.predict(X)).all()
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "model.onnx",
        "model.skops",
        "modelyard/example.json",
    ]


def test_a_data_frame_has_one_input_for_each_column_and_text_labels_are_bytes(tmp_path: Path) -> None:
    pipeline = people_pipeline().fit(PEOPLE, np.where(CLICKED, "clicked", "ignored"))
    captured = captured_quietly(pipeline, PEOPLE[:4], tmp_path)
    assert captured.variants == BOTH
    assert captured.signature == Signature(
        inputs=(
            Tensor("age in years", "FP64", (-1, 1)),
            Tensor("visits", "INT64", (-1, 1)),
            Tensor("città", "BYTES", (-1, 1)),
        ),
        outputs=(Tensor("label", "BYTES", (-1,)), Tensor("probabilities", "FP64", (-1, 2))),
    )
    assert recorded(tmp_path, "inputs")["città"].ravel().tolist() == ["roma", "oslo", "roma", "bern"]
    assert set(recorded(tmp_path, "outputs")["label"]) <= {"clicked", "ignored"}
    assert_graph_answers_as_recorded(tmp_path, captured.signature)


@pytest.mark.parametrize(
    ("estimator", "x", "y", "outputs"),
    [
        (Ridge(), XR, YR, [Tensor("prediction", "FP64", (-1,))]),
        (LinearRegression(), XR, np.c_[YR, YR], [Tensor("prediction", "FP64", (-1, 2))]),
        (RandomForestRegressor(3), XR, YR, [Tensor("prediction", "FP64", (-1,))]),
        (RandomForestRegressor(3), XR.astype(np.float32), YR, [Tensor("prediction", "FP64", (-1,))]),
        (GradientBoostingClassifier(n_estimators=3), X, Y, [Tensor("label", "INT64", (-1,)), 2]),
        (
            GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2),
            X / 100,
            Y,
            [Tensor("label", "INT64", (-1,)), 2],
        ),
        (LinearSVC(), X / 100, Y, [Tensor("label", "INT64", (-1,))]),
        (SVC(), X, Y, [Tensor("label", "INT64", (-1,))]),
        (LogisticRegression(), X / 100, Y == 1, [Tensor("label", "BOOL", (-1,)), 2]),
        (LogisticRegression(), X / 100, Y.astype(np.int32), [Tensor("label", "INT32", (-1,)), 2]),
        (LogisticRegression(), X / 100, Y.astype(float), [Tensor("label", "FP64", (-1,)), 2]),
        (DecisionTreeClassifier(), X.astype(np.int32), Y, [Tensor("label", "INT64", (-1,)), 2]),
        (DecisionTreeClassifier(), X > 10, Y, [Tensor("label", "INT64", (-1,)), 2]),
        (DecisionTreeClassifier(), (X % 200).astype(np.uint8), Y, [Tensor("label", "INT64", (-1,)), 2]),
        (DecisionTreeClassifier(), X, np.c_[Y, Y], [Tensor("label", "INT64", (-1, 2))]),
        (KMeans(3, n_init=1, random_state=0), X, None, [Tensor("prediction", "INT32", (-1,))]),
        (IsolationForest(n_estimators=5, random_state=0), X, None, [Tensor("prediction", "INT64", (-1,))]),
        (DecisionTreeClassifier(), FRAME, Y, [Tensor("label", "INT64", (-1,)), 2]),
        (
            make_pipeline(StandardScaler(), LogisticRegression()),
            FRAME,
            Y,
            [Tensor("label", "INT64", (-1,)), 2],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_common_estimators_get_a_graph_that_answers_like_them(
    tmp_path: Path, estimator: Any, x: Any, y: Any, outputs: list[Any]
) -> None:
    captured = capture(estimator.fit(x, y), x[:7], tmp_path)
    expected = [
        each if isinstance(each, Tensor) else Tensor("probabilities", "FP64", (-1, each)) for each in outputs
    ]
    assert captured.signature is not None
    assert list(captured.signature.outputs) == expected
    assert captured.variants == BOTH
    assert_graph_answers_as_recorded(tmp_path, captured.signature)


def test_a_column_that_the_model_drops_is_an_input_nevertheless(tmp_path: Path) -> None:
    """A caller sends what the signature lists; a graph without that input would refuse the request."""
    pipeline = make_pipeline(ColumnTransformer([("one", StandardScaler(), ["visits"])]), LogisticRegression())
    captured = captured_quietly(pipeline.fit(PEOPLE, CLICKED), PEOPLE[:3], tmp_path)
    assert captured.variants == BOTH
    assert captured.signature is not None
    assert_graph_answers_as_recorded(tmp_path, captured.signature)


@pytest.mark.parametrize(
    "names", [["input", "variable"], ["_input", "_cast_0"], ["a b", "a_b"], ['"', "\n{}"]]
)
def test_any_column_name_is_kept(tmp_path: Path, names: list[str]) -> None:
    frame = pd.DataFrame(X[:50, :2], columns=names)
    captured = captured_quietly(LogisticRegression().fit(frame, Y[:50]), frame[:3], tmp_path)
    assert captured.variants == BOTH
    assert captured.signature is not None
    assert [each.name for each in captured.signature.inputs] == names
    assert_graph_answers_as_recorded(tmp_path, captured.signature)


def test_a_column_named_like_an_output_costs_the_onnx_variant_only(tmp_path: Path) -> None:
    frame = pd.DataFrame(X[:50, :2], columns=["label", "other"])
    captured = capture(LogisticRegression().fit(frame, Y[:50]), frame[:3], tmp_path)
    assert captured.variants == BOTH[:1]
    assert captured.notes[0].startswith("Registered without an ONNX variant")
    assert not (tmp_path / "model.onnx").exists()


def test_a_text_pipeline_takes_a_list_of_texts(tmp_path: Path) -> None:
    texts = ["cheap pills now", "meeting at noon", "pills pills", "lunch meeting"]
    pipeline = make_pipeline(TfidfVectorizer(), MultinomialNB()).fit(texts, ["spam", "ham", "spam", "ham"])
    captured = capture(pipeline, texts[:2], tmp_path)
    assert captured.signature is not None
    assert captured.signature.inputs == (Tensor("input", "BYTES", (-1,)),)
    assert recorded(tmp_path, "outputs")["label"].tolist() == ["spam", "ham"]
    assert "without an ONNX variant" in captured.notes[0]


def test_without_an_example_the_loss_is_told(tmp_path: Path) -> None:
    captured = capture(LogisticRegression().fit(X / 100, Y), None, tmp_path)
    assert (captured.variants, captured.signature, captured.example) == (BOTH[:1], None, None)
    assert "no signature" in captured.notes[0]


def test_a_graph_that_disagrees_is_refused() -> None:
    estimator = LogisticRegression().fit(X / 100, Y)
    inputs = [NamedArray("input", X[:5] / 100)]
    label = NamedArray("label", estimator.predict(X[:5] / 100))
    probabilities = estimator.predict_proba(X[:5] / 100)
    convert(estimator, inputs, [label, NamedArray("probabilities", probabilities)])
    with pytest.raises(NotConvertible, match="label is not the estimator's"):
        convert(
            estimator,
            inputs,
            [
                NamedArray("label", 1 - estimator.predict(X[:5] / 100)),
                NamedArray("probabilities", probabilities),
            ],
        )
    with pytest.raises(NotConvertible, match="probabilities is not the estimator's"):
        convert(estimator, inputs, [label, NamedArray("probabilities", probabilities * 1.01)])
    convert(estimator, inputs, [label, NamedArray("probabilities", probabilities * 1.0001)])


class Constant(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """An estimator that no library knows."""

    def fit(self, x: Any, y: Any) -> "Constant":  # noqa: ARG002 - scikit-learn's protocol
        self.classes_ = np.unique(y)
        return self

    def predict(self, x: Any) -> Any:
        return np.full(len(x), self.classes_[0])


def test_a_class_of_ones_own_is_registered_with_a_warning_that_names_it(tmp_path: Path) -> None:
    captured = capture(Constant().fit(X, Y), X[:5], tmp_path)
    assert captured.variants == BOTH[:1]
    assert "Constant" in captured.notes[0]
    assert "unless its operator trusts these types" in captured.notes[0]
    assert "without an ONNX variant" in captured.notes[1]


def test_what_skops_cannot_save_is_refused(tmp_path: Path) -> None:
    estimator = LogisticRegression().fit(X / 100, Y)
    estimator.progress = (each for each in (1, 2))
    with pytest.raises(CaptureError, match=r"cannot be saved and read back with skops: .*generator"):
        capture(estimator, X[:5] / 100, tmp_path)


@pytest.mark.parametrize(
    "estimator", [LogisticRegression(), make_pipeline(StandardScaler(), LogisticRegression())]
)
def test_an_estimator_that_is_not_fitted_is_refused(tmp_path: Path, estimator: Any) -> None:
    with pytest.raises(CaptureError, match="not fitted: call fit"):
        capture(estimator, X[:5], tmp_path)


@pytest.mark.parametrize(
    "thing",
    [
        object(),
        None,
        3,
        {"a": 1},
        b"model.bin",
        LogisticRegression,
        print,
        np.zeros(3),
        StandardScaler().fit(X),
    ],
)
def test_anything_else_is_a_type_error_that_says_what_is_accepted(thing: Any) -> None:
    fake = FakeRegistry()
    with fake.client() as client, pytest.raises(UnsupportedModel) as caught:
        client.publish("fraud", thing)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, modelyard.ModelyardError)
    assert fake.requests == []


@pytest.mark.parametrize("missing", ["skops", "skl2onnx", "onnxruntime"])
def test_a_missing_companion_is_told_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependency, match=r'pip install "modelyard\[sklearn\]"') as caught:
        capture(LogisticRegression().fit(X / 100, Y), X[:5], tmp_path)
    assert isinstance(caught.value, ImportError)


def frame(**columns: Sequence[Any]) -> pd.DataFrame:
    return pd.DataFrame(columns)


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (np.full((2, 30), np.nan), "NaN or infinite"),
        (np.full((2, 30), np.inf), "NaN or infinite"),
        (frame(a=[1.0, np.nan]), "column 'a' has NaN"),
        (frame(a=["x", None]), "column 'a'.*none missing"),
        (frame(a=pd.array([1, None], dtype="Int64")), "column 'a'"),
        (frame(a=pd.to_datetime(["2026-01-01"])), "datetime64"),
        (frame(a=[b"bytes"]), "bytes"),
        (frame(a=[1, "x"]), "int"),
        (np.array([[1, "x"]], dtype=object), "DataFrame"),
        (np.zeros((2, 30), dtype=complex), "complex128"),
        (np.zeros((2, 30), dtype=np.longdouble), "float128"),
        (X[0], r"shape \(30,\).*X\[:1\]"),
        (np.zeros((2, 3, 4)), "shape"),
        (3.0, "shape"),
        ([], "shape|rows"),
        (np.zeros((0, 30)), "0 rows"),
        (np.zeros((1001, 30)), "1001 rows"),
        (frame(), "columns need names"),
        (pd.DataFrame(X[:2]), "columns need names"),
        (pd.DataFrame(X[:2, :2], columns=["a", "a"]), "not given twice"),
        (X[:5, :4], "does not accept the example"),
        ([[1, 2], [3]], "inhomogeneous|shape"),
    ],
)
def test_an_example_that_cannot_be_recorded_is_refused_with_the_reason(
    tmp_path: Path, example: Any, reason: str
) -> None:
    with pytest.raises(CaptureError, match=reason):
        capture(LogisticRegression().fit(X / 100, Y), example, tmp_path)


def test_a_sparse_matrix_is_no_example(tmp_path: Path) -> None:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

    with pytest.raises(CaptureError, match="dense"):
        capture(LogisticRegression().fit(X / 100, Y), csr_array(X[:2]), tmp_path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_answer_that_json_cannot_record_is_refused(tmp_path: Path) -> None:
    regression = LinearRegression().fit(XR, YR)
    regression.coef_[:] = np.inf
    with pytest.raises(CaptureError, match="estimator's prediction has NaN or infinite"):
        capture(regression, XR[:5], tmp_path)


def test_pandas_own_types_become_plain_ones(tmp_path: Path) -> None:
    """What is recorded is what serving rebuilds: strings and plain numbers."""
    people = PEOPLE.astype({"visits": "Int64", "città": "category"})
    captured = captured_quietly(people_pipeline().fit(people, CLICKED), people[:3], tmp_path)
    assert captured.signature is not None
    assert [each.datatype for each in captured.signature.inputs] == ["FP64", "INT64", "BYTES"]
    assert captured.variants == BOTH


def test_big_endian_and_other_foreign_memory_is_recorded_like_any_other(tmp_path: Path) -> None:
    estimator = LogisticRegression().fit(X / 100, Y)
    captured = captured_quietly(estimator, np.asfortranarray(X[:4] / 100).astype(">f8"), tmp_path)
    assert captured.signature is not None
    assert captured.signature.inputs == (Tensor("input", "FP64", (-1, 30)),)
    assert (recorded(tmp_path, "inputs")["input"] == X[:4] / 100).all()


def test_publishing_warns_where_the_user_called_and_then_publishes() -> None:
    fake = FakeRegistry()
    estimator = LogisticRegression().fit(X / 100, Y)
    with (
        fake.client() as client,
        pytest.warns(modelyard.CaptureWarning, match="without an example") as caught,
    ):
        client.publish("fraud", estimator, metrics={"auc": np.float32(0.5)}, tags={"run": 7})  # type: ignore[dict-item]
    assert caught[0].filename == __file__
    commit = json.loads(next(each.content for each in fake.requests if each.url.path.endswith("/versions")))
    assert (commit["format"], commit["signature"], commit["example"]) == ("sklearn-skops", None, None)
    assert (commit["metrics"], commit["tags"]) == ({"auc": 0.5}, {"run": "7"})


def test_a_path_with_data_as_example_is_refused(tmp_path: Path) -> None:
    fake = FakeRegistry()
    with fake.client() as client, pytest.raises(UnsupportedModel, match="path of a recorded example"):
        client.publish("fraud", tmp_path, example=X[:5])

"""A model is held to its signature, whatever its runtime does."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from serving_adapter.errors import BadInput, ModelFailed
from serving_adapter.model import Model
from serving_adapter.tensors import Array, Signature, TensorSpec, describe

TWO_IN = Signature(
    (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "BYTES", (-1,))),
    (TensorSpec("label", "INT64", (-1,)), TensorSpec("score", "FP64", (-1, 1))),
)
A = np.zeros((3, 2), np.float32)
B = np.array(["x", "y", "z"], object)


class Echo:
    """Answers what it was made with."""

    platform = "echo"

    def __init__(self, answer: dict[str, Array] | Exception, signature: Signature | None = None) -> None:
        self._answer = answer
        self.signature = signature

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        del inputs
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def close(self) -> None: ...


GOOD = {"label": np.array([1, 2, 3]), "score": np.array([[0.1], [0.2], [0.3]])}


def model(**changed: Any) -> Model:
    return Model(Echo({**GOOD, **changed}), TWO_IN)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"a": A}, r"expected inputs \['a', 'b'\]: missing \['b'\]"),
        ({"a": A, "b": B, "c": A}, r"unexpected \['c'\]"),
        ({}, r"missing \['a', 'b'\]"),
        (
            {"a": A.astype(np.float64), "b": B},
            r"input 'a' must be FP32 of shape \[-1, 2\], got FP64 of shape \[3, 2\]",
        ),
        ({"a": A[:, :1], "b": B}, r"input 'a' must be FP32 of shape \[-1, 2\], got FP32 of shape \[3, 1\]"),
        ({"a": A.reshape(-1), "b": B}, r"got FP32 of shape \[6\]"),
        ({"a": A, "b": A}, r"input 'b' must be BYTES of shape \[-1\]"),
    ],
)
def test_inputs_that_are_not_those_of_the_signature_are_refused(
    inputs: dict[str, Array], expected: str
) -> None:
    """The message says what was expected and what came; the runtime is not asked."""
    never = Model(Echo(AssertionError("asked")), TWO_IN)
    with pytest.raises(BadInput, match=expected):
        never.run(inputs)


def test_outputs_that_are_not_wanted_are_left_out() -> None:
    assert list(model().run({"a": A, "b": B}, ["score"])) == ["score"]


def test_an_output_that_the_model_does_not_have_is_refused_before_it_runs() -> None:
    never = Model(Echo(AssertionError("asked")), TWO_IN)
    with pytest.raises(BadInput, match=r"no outputs \['x'\]; the model has \['label', 'score'\]"):
        never.run({"a": A, "b": B}, ["x"])


def test_outputs_are_cast_and_reshaped_to_what_the_signature_says() -> None:
    """[n,1] for [n], [n] for [n,1], narrower numbers for wider ones; what was not promised is dropped."""
    answer = model(
        label=np.array([[1], [2], [3]], np.int32), score=np.array([0.5, 1, 2], np.float32), more=A
    ).run({"a": A, "b": B})
    assert list(answer) == ["label", "score"]
    assert [describe(array) for array in answer.values()] == ["INT64 of shape [3]", "FP64 of shape [3, 1]"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"label": np.array(["a", "b", "c"])}, "output 'label' must be INT64"),
        ({"label": np.array([1.5, 2, 3])}, "output 'label' must be INT64"),
        ({"score": np.zeros((3, 2))}, r"the model answered FP64 of shape \[3, 2\]"),
        ({"score": np.zeros((3, 1, 1))}, "output 'score' must be FP64"),
    ],
)
def test_an_answer_that_breaks_the_signature_is_the_models_failure(
    changed: dict[str, Array], expected: str
) -> None:
    with pytest.raises(ModelFailed, match=expected):
        model(**changed).run({"a": A, "b": B})


def test_a_missing_output_is_the_models_failure() -> None:
    with pytest.raises(ModelFailed, match="without the output 'score'"):
        Model(Echo({"label": GOOD["label"]}), TWO_IN).run({"a": A, "b": B})


def test_what_a_model_raises_does_not_reach_the_caller() -> None:
    """Its message may hold paths and data; the cause stays for the log."""
    failing = Model(Echo(ValueError("/etc/model")), TWO_IN)
    with pytest.raises(ModelFailed) as caught:
        failing.run({"a": A, "b": B})
    assert str(caught.value) == "the model failed on this input (ValueError)"
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_model_may_say_that_the_input_is_at_fault() -> None:
    with pytest.raises(BadInput, match="same number"):
        Model(Echo(BadInput("the same number of rows")), TWO_IN).run({"a": A, "b": B})


def test_without_a_signature_the_files_own_counts() -> None:
    with pytest.raises(BadInput, match="missing"):
        Model(Echo(GOOD, TWO_IN), None).run({"a": A})


def test_with_no_signature_at_all_the_runtime_decides() -> None:
    assert Model(Echo(GOOD), None).run({"anything": A}, ["score"]).keys() == {"score"}
    with pytest.raises(BadInput, match="no outputs"):
        Model(Echo(GOOD), None).run({"anything": A}, ["x"])

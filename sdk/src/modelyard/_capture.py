"""A fitted scikit-learn estimator becomes a folder that can be registered.

folder/
    model.skops               the estimator, in a format that holds data, not code
    model.onnx                the same as an ONNX graph, if it can be converted and gives the same answers
    modelyard/example.json    the example's inputs and what the estimator answered, as V2 request and response

Only this module and those below it import scikit-learn and its companions; nothing else of this package needs them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelyard._errors import CaptureError, MissingDependency, UnsupportedModel
from modelyard._manifest import RESERVED
from modelyard._types import Signature, Variant

EXAMPLE_PATH = f"{RESERVED}/example.json"


@dataclass(slots=True)
class Captured:
    """What there is to tell about the folder. `notes` are warnings for the user."""

    variants: list[Variant] = field(default_factory=list)
    signature: Signature | None = None
    example: str | None = None
    notes: list[str] = field(default_factory=list)


def capture(estimator: Any, example: Any, folder: Path) -> Captured:
    """Write `estimator` and `example` into `folder`.

    Raises UnsupportedModel, MissingDependency, or CaptureError for an estimator that is not fitted, cannot be saved,
    or does not accept the example.
    """
    _check_kind(estimator)
    _check_dependencies()
    _check_fitted(estimator)
    captured = Captured()
    _save(estimator, folder, captured)
    if example is None:
        captured.notes.append(
            "Registered without an example: there is no signature, so serving cannot check requests, nothing was converted "
            "to ONNX, and no reload can be tested before it goes live. Pass example=X[:5]."
        )
    else:
        _record(estimator, example, folder, captured)
    return captured


def _check_kind(estimator: Any) -> None:
    bases = type(estimator).__mro__
    if isinstance(estimator, type) or not any(
        base.__module__.partition(".")[0] == "sklearn" for base in bases
    ):
        raise UnsupportedModel(
            f"Expected a path or a fitted scikit-learn estimator, not {type(estimator).__name__!r}. "
            "Save any other model to a file or directory and pass its path."
        )
    if not hasattr(estimator, "predict"):
        raise UnsupportedModel(
            f"{type(estimator).__name__} has no predict(): it answers nothing that could be served."
        )


def _check_dependencies() -> None:
    try:
        import onnxruntime  # noqa: F401 - only whether it is there
        import skl2onnx  # noqa: F401
        import skops.io  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            f'Publishing an estimator needs {error.name}, which is not installed: pip install "modelyard[sklearn]"'
        ) from error


def _check_fitted(estimator: Any) -> None:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise CaptureError(
            f"{type(estimator).__name__} is not fitted: call fit() before publishing it."
        ) from error


def _save(estimator: Any, folder: Path, captured: Captured) -> None:
    import skops.io

    path = folder / "model.skops"
    try:
        skops.io.dump(estimator, path)
        untrusted = skops.io.get_untrusted_types(file=path)
        if not untrusted:
            skops.io.load(path)
    except Exception as error:
        # Border: skops runs the estimator's own code, which may raise anything.
        raise CaptureError(
            f"{type(estimator).__name__} cannot be saved and read back with skops: {error}. Save it in another way and "
            "pass its path."
        ) from error
    captured.variants.append(Variant("sklearn-skops", path.name))
    if untrusted:
        captured.notes.append(
            f"model.skops holds types that skops does not trust by itself: {', '.join(untrusted)}. Serving refuses to load "
            "them unless its operator trusts these types; an ONNX variant, if there is one, is not affected."
        )


def _record(estimator: Any, example: Any, folder: Path, captured: Captured) -> None:
    from modelyard._convert import NotConvertible, convert
    from modelyard._tensors import read_example

    inputs = read_example(example)
    outputs = tuple(_answers(estimator, inputs))
    captured.signature = Signature(
        inputs=tuple(each.tensor() for each in inputs.tensors),
        outputs=tuple(each.tensor() for each in outputs),
    )
    recorded = {
        "inputs": [each.to_wire() for each in inputs.tensors],
        "outputs": [each.to_wire() for each in outputs],
    }
    captured.example = EXAMPLE_PATH
    (folder / EXAMPLE_PATH).parent.mkdir()
    (folder / EXAMPLE_PATH).write_text(
        json.dumps(recorded, ensure_ascii=False, allow_nan=False), encoding="utf-8"
    )
    try:
        graph = convert(estimator, inputs.tensors, outputs)
    except NotConvertible as finding:
        captured.notes.append(f"Registered without an ONNX variant: {finding}.")
    else:
        (folder / "model.onnx").write_bytes(graph)
        captured.variants.append(Variant("onnx", "model.onnx"))


def _answers(estimator: Any, inputs: Any) -> "Iterator[Any]":
    """What the estimator says about the example: label and probabilities, or prediction."""
    from sklearn.base import is_classifier

    from modelyard._tensors import read_answer

    name = "label" if is_classifier(estimator) else "prediction"
    yield read_answer(name, _ask(estimator, "predict", inputs.data), inputs.rows)
    if name == "label" and hasattr(estimator, "predict_proba"):
        probabilities = _ask(estimator, "predict_proba", inputs.data)
        # Several labels at once come as a list of matrices, which no single tensor can hold.
        if not isinstance(probabilities, list):
            yield read_answer("probabilities", probabilities.astype("float64"), inputs.rows)


def _ask(estimator: Any, method: str, data: Any) -> Any:
    try:
        return getattr(estimator, method)(data)
    except Exception as error:
        # Border: estimators raise anything for data that they do not like.
        raise CaptureError(
            f"{type(estimator).__name__}.{method}() does not accept the example: {error}"
        ) from error

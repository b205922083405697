"""scikit-learn estimators, from skops files: a zip archive of JSON and arrays that holds no code.

skops builds only objects of types that it knows, or that the operator has named with --trust-type. A file that needs
another type is refused. Nothing here unpickles, whatever the file is.

    inputs: one tensor                                          ──▶ that array: samples and features, or texts
            one per column, or named as the estimator's columns ──▶ a pandas DataFrame
    answer: classifier  label, probabilities
            other       prediction
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import skops.io
from sklearn.base import is_classifier

from serving_adapter.errors import BadInput
from serving_adapter.runtimes.base import LoadFailed, Options
from serving_adapter.tensors import Array, Signature

Arrange = Callable[[Mapping[str, Array]], Any]


class SklearnRuntime:
    """One fitted estimator."""

    platform = "sklearn_skops"
    signature = None  # the estimator knows how many columns it takes, but not of which type

    def __init__(self, estimator: Any, options: Options) -> None:
        self._estimator: Any = estimator
        self._arrange = _arrangement(estimator, options.signature)
        self._answers = _answers(estimator, options.signature)

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        estimator = self._estimator
        if estimator is None:
            raise RuntimeError("the model has been closed")
        table = self._arrange(inputs)
        return {name: np.asarray(getattr(estimator, method)(table)) for name, method in self._answers.items()}

    def close(self) -> None:
        self._estimator = None


def load(path: Path, options: Options) -> SklearnRuntime:
    """Build the estimator in the skops file at `path`; raise LoadFailed if it is none, or needs an untrusted type."""
    try:
        untrusted = set(skops.io.get_untrusted_types(file=path)) - set(options.trusted_types)
    except (BadZipFile, KeyError, ValueError) as error:
        raise LoadFailed("not a skops file") from error
    if untrusted:
        raise LoadFailed(
            f"the model needs types that are not trusted: {', '.join(sorted(untrusted))}; "
            "the operator may name them with --trust-type"
        )
    estimator = skops.io.load(path, trusted=list(options.trusted_types))
    if not hasattr(estimator, "predict"):
        raise LoadFailed("the file holds no estimator that can predict")
    return SklearnRuntime(estimator, options)


def _answers(estimator: Any, signature: Signature | None) -> dict[str, str]:
    """Which method gives which output: those of the signature, else what the estimator has."""
    if not is_classifier(estimator):
        return {"prediction": "predict"}
    offered = {"label": "predict", "probabilities": "predict_proba"}
    if signature is not None:
        wanted = {spec.name for spec in signature.outputs}
        return {name: method for name, method in offered.items() if name in wanted}
    return {name: method for name, method in offered.items() if hasattr(estimator, method)}


def _arrangement(estimator: Any, signature: Signature | None) -> Arrange:
    """How the tensors become what the estimator was fitted on."""
    if signature is None:
        return _into_matrix
    names = [spec.name for spec in signature.inputs]
    fitted = [str(name) for name in getattr(estimator, "feature_names_in_", [])]
    if fitted and set(fitted) == set(names):
        return _into_frame(fitted)
    return _into_frame(names) if len(names) > 1 else _as_it_is


def _into_frame(columns: list[str]) -> Arrange:
    try:
        import pandas as pd
    except ImportError as error:
        raise LoadFailed("the model takes a DataFrame: install pandas beside the adapter") from error

    def arrange(inputs: Mapping[str, Array]) -> Any:
        if len({len(array) for array in inputs.values()}) > 1:
            raise BadInput("all inputs must have the same number of rows")
        return pd.DataFrame({name: inputs[name].reshape(len(inputs[name])) for name in columns})

    return arrange


def _as_it_is(inputs: Mapping[str, Array]) -> Array:
    (array,) = inputs.values()  # the signature has been checked: there is exactly one
    return array


def _into_matrix(inputs: Mapping[str, Array]) -> Array:
    """Without a signature: one input of samples and features."""
    if len(inputs) != 1 or any(array.ndim != 2 or array.dtype == np.object_ for array in inputs.values()):
        raise BadInput("expected one numeric input of two dimensions: samples and features")
    return _as_it_is(inputs)

"""What a runtime is: the code that loads one format and answers with it.

load(path, options) ──▶ Runtime ──predict──▶ predict … ──▶ close

Loading may execute what the format allows, so it happens in the loader's child first. `predict` is called by several
threads at once. After `close` it must raise rather than answer.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from serving_adapter.tensors import Array, Signature


class Options(msgspec.Struct, frozen=True):
    """What a runtime may need to know beside the file."""

    signature: Signature | None = None
    trusted_types: tuple[str, ...] = ()


class Runtime(Protocol):
    """A loaded model."""

    @property
    def platform(self) -> str:
        """What the protocol's metadata calls it, such as `onnx_onnxv1`."""

    @property
    def signature(self) -> Signature | None:
        """Inputs and outputs as the file itself declares them; None if it does not."""

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Answer one request. Raises BadInput for what only the model can know to be wrong with the input."""

    def close(self) -> None:
        """Let go of the model's memory."""


class RuntimeModule(Protocol):
    """A module in this folder, or wherever `Settings.formats` points."""

    def load(self, path: Path, options: Options) -> Runtime:
        """Load the file or folder at `path`; raise LoadFailed, or whatever the library raises."""


class LoadFailed(Exception):
    """The file is not what its format promises, or holds what is not served. The message names no path."""

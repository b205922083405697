"""From a version in the registry to a snapshot that may be swapped in. Each step can reject it; none can hurt.

pin, fetch: verified files ──▶ select: a format that is served ──▶ check: in a child process ──▶ load: in this one

The pin keeps the files in the cache as long as the snapshot lives; a candidate that fails is unpinned at once.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modelyard import Signature as RegisteredSignature
from modelyard import Version

from serving_adapter.cache import Cache
from serving_adapter.candidate import Candidate, load, rehearse
from serving_adapter.errors import CandidateRejected
from serving_adapter.loader import Loader
from serving_adapter.model import Model
from serving_adapter.runtimes.base import Options
from serving_adapter.settings import Settings
from serving_adapter.slot import Snapshot
from serving_adapter.tensors import DTYPES, Signature, TensorSpec


@dataclass(frozen=True, slots=True)
class Workshop:
    """What it takes to prepare a version."""

    settings: Settings
    cache: Cache
    loader: Loader

    def prepare(self, version: Version, report: Callable[[str], None]) -> Snapshot:
        """Fetch, select, check and load; `report` is told the phase.

        Raises CandidateRejected when the version must not be served; LoaderBroken, OSError or modelyard's errors when
        it may be tried again.
        """
        report("fetch")
        with contextlib.ExitStack() as undo:
            pin = self.cache.pin(version.digest)
            undo.callback(pin.close)
            folder = self.cache.fetch(version)
            report("select")
            format_, candidate = select(version, folder, self.settings)
            report("check")
            self.loader.check(candidate)
            report("load")
            snapshot = Snapshot(version.number, version.digest, format_, _load_here(candidate), pin)
            undo.pop_all()
        return snapshot


def select(version: Version, folder: Path, settings: Settings) -> tuple[str, Candidate]:
    """The format that is preferred among those that the version has; raise CandidateRejected if there is none."""
    offered = {variant.format: variant.path for variant in version.variants}
    for format_ in settings.preferred_formats:
        if format_ in offered:
            path = offered[format_]
            for needed in (path, *([version.example] if version.example else [])):
                _require_file(version, needed)
            options = Options(_signature(version.signature), settings.trusted_types)
            return format_, Candidate(str(folder), path, settings.formats[format_], version.example, options)
    raise CandidateRejected(
        "select",
        f"the version can be loaded as {sorted(offered) or version.format}, and this adapter serves "
        f"{list(settings.preferred_formats)}",
    )


def _require_file(version: Version, path: str) -> None:
    """The paths of files were checked when they were fetched; other paths are only what somebody said."""
    if not any(file.path == path or file.path.startswith(f"{path}/") for file in version.files):
        raise CandidateRejected("select", f"the version has no file '{path:.200}', which it names")


def _signature(registered: RegisteredSignature | None) -> Signature | None:
    if registered is None:
        return None
    signature = Signature(
        inputs=tuple(TensorSpec(each.name, each.datatype, each.shape) for each in registered.inputs),
        outputs=tuple(TensorSpec(each.name, each.datatype, each.shape) for each in registered.outputs),
    )
    unknown = {spec.datatype for spec in (*signature.inputs, *signature.outputs)} - DTYPES.keys()
    if unknown:
        raise CandidateRejected(
            "select", f"the signature has datatypes that are not served: {sorted(unknown)}"
        )
    return signature


def _load_here(candidate: Candidate) -> Model:
    model = load(candidate)
    try:
        rehearse(model, candidate)
    except CandidateRejected:
        model.close()
        raise
    return model

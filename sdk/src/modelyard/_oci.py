"""A version in the shape of CNCF ModelPack, which is an OCI artifact: pure translation, no file is touched.

    index.json ── manifest ─┬─ config        what ModelPack has words for: name, version, time, format, diffIds
                            ├─ layers        one for each file, raw: the layer's digest is the file's
                            └─ annotation    modelyard.version+json: the rest of a Version, which others ignore

The rest is an annotation and not a blob of its own: every tool that copies a manifest keeps its annotations, while
ModelPack's readers stop at a layer whose media type they do not know.

Sources: OCI image specification 1.1 (manifest, image layout) and the model specification of modelpack.org.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from pathlib import PurePosixPath
from typing import Any, TypeVar

from modelyard._errors import IntegrityError, InvalidArchive
from modelyard._manifest import check_files, manifest_digest, sha256
from modelyard._types import File, Version

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"

TAG = "org.opencontainers.image.ref.name"
TITLE = "org.opencontainers.image.title"  # where `oras pull` writes a layer
FILEPATH = "org.cncf.model.filepath"  # where ModelPack's tools do
RECORD = "modelyard.version+json"
SCHEMA = "modelyard.version/1"

_RAW = re.compile(r"application/vnd\.cncf\.model\.(weight|weight\.config|doc|code|dataset)\.v1\.raw")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_KINDS = {
    "code": {".py", ".sh", ".ipynb"},
    "doc": {".md", ".rst", ".pdf", ".html"},
    "weight.config": {".json", ".yaml", ".yml", ".toml", ".txt", ".cfg"},
}
_KINDS_BY_NAME = {"LICENSE": "doc", "README": "doc", "MLmodel": "weight.config"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Artifact:
    """The three documents of one version: `index` is no blob, the others are named by their digests."""

    index: bytes
    manifest: bytes
    config: bytes


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Which blob, of which media type, with how many bytes."""

    media_type: str
    digest: str
    size: int

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> "Descriptor":
        media_type, digest, size = wire["mediaType"], wire["digest"], wire["size"]
        if not (isinstance(media_type, str) and isinstance(digest, str) and type(size) is int and size >= 0):
            raise TypeError("mediaType and digest are strings, size is a number of bytes")
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is not a SHA-256 digest")
        return cls(media_type, digest, size)


@dataclass(frozen=True, slots=True)
class Content:
    """What a manifest promises. `version` is None if another tool made it; `name` is None if it tells none."""

    config: Descriptor
    files: tuple[File, ...]
    version: Version | None
    name: str | None = None


def facts_of(version: Version) -> dict[str, Any]:
    """What is said about the files of `version`, as an upload sends it."""
    return {
        "format": version.format,
        "variants": [variant.to_wire() for variant in version.variants],
        "signature": version.signature and version.signature.to_wire(),
        "example": version.example,
        "description": version.description,
        "metrics": version.metrics,
        "tags": version.tags,
    }


def artifact_of(version: Version) -> Artifact:
    """The documents for `version`; the same version always gives the same bytes."""
    files = sorted(version.files, key=lambda file: file.path)
    config = _dump(
        {
            "descriptor": {
                "createdAt": _created(version),
                "name": version.model,
                "version": str(version.number),
                **({"description": version.description} if version.description else {}),
            },
            "config": {"format": version.format},
            "modelfs": {"type": "layers", "diffIds": [file.digest for file in files]},
        }
    )
    manifest = _dump(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": ARTIFACT,
            "config": _descriptor(CONFIG, config),
            "layers": [_layer(file) for file in files],
            "annotations": {
                "org.opencontainers.image.created": _created(version),
                TITLE: f"{version.model}/{version.number}",
                RECORD: _dump(_record(version)).decode(),
            },
        }
    )
    entry = {
        **_descriptor(MANIFEST, manifest),
        "artifactType": ARTIFACT,
        # Only the tag: tools read what follows the last colon of LAYOUT:TAG.
        "annotations": {TAG: str(version.number)},
    }
    return Artifact(_dump({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}), manifest, config)


def read_index(content: bytes) -> Descriptor:
    """The one manifest of an index. Raises InvalidArchive."""

    def read(index: Any) -> Descriptor:
        if len(index["manifests"]) != 1:
            raise InvalidArchive(
                f"An archive of one version was expected; this one has {len(index['manifests'])} manifests. Copy the one "
                "that you mean into an archive of its own, for example with `skopeo copy`."
            )
        return Descriptor.from_wire(index["manifests"][0])

    return _understand("index.json", content, read)


def read_manifest(content: bytes) -> Content:
    """What a manifest promises, checked as far as it can be without its blobs.

    Raises InvalidArchive if it is no ModelPack manifest with raw layers, InvalidPath for unsafe paths, and
    IntegrityError if the files are not those that the recorded digest stands for.
    """
    found = _understand("the manifest", content, _read_manifest)
    check_files(found.files)
    if found.version and manifest_digest(found.files) != found.version.digest:
        raise IntegrityError(
            "The archive's list of files is not the one that its version's digest stands for."
        )
    return found


def read_name(config: bytes, files: tuple[File, ...]) -> str | None:
    """The model's name in a ModelPack config, if it has one. Raises IntegrityError if it is about other files."""

    def read(wire: Any) -> str | None:
        if wire["modelfs"]["diffIds"] != [file.digest for file in files]:
            raise IntegrityError("The archive's config lists other layers than its manifest.")
        name = wire["descriptor"].get("name")
        return name if isinstance(name, str) else None

    return _understand("the config", config, read)


def _read_manifest(wire: Any) -> Content:
    config = Descriptor.from_wire(wire["config"])
    if wire.get("artifactType") != ARTIFACT or config.media_type != CONFIG:
        raise InvalidArchive(
            f"This is an OCI artifact, but not a model in the shape of CNCF ModelPack: expected type {ARTIFACT}."
        )
    files = tuple(_file(layer) for layer in wire["layers"])
    record = (wire.get("annotations") or {}).get(RECORD)
    return Content(config, files, None if record is None else _version(json.loads(record), files))


def _file(layer: Any) -> File:
    blob = Descriptor.from_wire(layer)
    if not _RAW.fullmatch(blob.media_type):
        raise InvalidArchive(
            f"A layer is {blob.media_type}: only raw layers (application/vnd.cncf.model.….v1.raw, one file each) can be "
            "imported. Unpack the model with the tool that made it, then `modelyard push` the directory."
        )
    path = (layer.get("annotations") or {}).get(FILEPATH)
    if not isinstance(path, str):
        raise InvalidArchive(f"Layer {blob.digest} has no annotation {FILEPATH}, so its file has no name.")
    return File(path=path, size=blob.size, digest=blob.digest)


def _version(record: Any, files: tuple[File, ...]) -> Version:
    if record["schema"] != SCHEMA:
        raise InvalidArchive(
            f"The archive is of schema {record['schema']!r}, this program reads {SCHEMA}: upgrade modelyard."
        )
    listed = [file.to_wire() for file in files]
    rest = {"files": listed, "size": sum(file.size for file in files), "stage": "none", "aliases": []}
    version = Version.from_wire({**record, **rest})
    if not isinstance(version.model, str):
        raise TypeError("a model's name is a string")
    json.dumps(facts_of(version), allow_nan=False)  # raises ValueError for what no registry can be told
    return version


def _record(version: Version) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "model": version.model,
        "number": version.number,
        "digest": version.digest,
        "created_at": _created(version),
        "created_by": version.created_by,
        **facts_of(version),
    }


def _created(version: Version) -> str:
    return version.created_at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _layer(file: File) -> dict[str, Any]:
    return {
        "mediaType": f"application/vnd.cncf.model.{_kind(PurePosixPath(file.path))}.v1.raw",
        "digest": file.digest,
        "size": file.size,
        "annotations": {FILEPATH: file.path, TITLE: file.path},
    }


def _kind(path: PurePosixPath) -> str:
    """Which of ModelPack's kinds of file this looks like; what is unknown counts as weights."""
    by_suffix = next((kind for kind, suffixes in _KINDS.items() if path.suffix.lower() in suffixes), "weight")
    return _KINDS_BY_NAME.get(path.stem, by_suffix)


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(content), "size": len(content)}


def _dump(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _understand(what: str, content: bytes, read: Callable[[Any], T]) -> T:
    try:
        return read(json.loads(content))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InvalidArchive(
            f"{what} of the archive cannot be understood ({type(error).__name__}: {error})."
        ) from error

"""The rules of names, paths, digests, manifests and stages: pure functions and values, importing nothing of ours but errors."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from registry.errors import InvalidDigest, InvalidFacts, InvalidFiles, InvalidName, InvalidPath

Stage = Literal["none", "staging", "production", "archived"]
PointerKind = Literal["stage", "alias"]
MoveKind = Literal["promote", "rollback", "vacate"]

POINTER_STAGES = ("production", "staging")
"""Stages that at most one version of a model holds at a time; each is a pointer."""

MAX_FILES = 4096
MAX_PATH_BYTES = 1024
MAX_SEGMENTS = 64
MAX_SEGMENT_BYTES = 255
MAX_NUMBER = 2**31 - 1
MAX_SIZE = 2**63 - 1

DATATYPES = frozenset(
    [
        "BOOL",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "FP32",
        "FP64",
        "BYTES",
    ]
)
"""Tensor datatypes of the Open Inference Protocol V2."""

WORKSPACE_NAME = r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?"

_MODEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?", re.ASCII)
_PRINCIPAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}", re.ASCII)
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
# "v3" would read like a version number, "latest" like a promise that nobody keeps, "Production" like the stage.
_RESERVED_ALIAS = re.compile(r"none|staging|production|archived|latest|v\d+", re.ASCII | re.IGNORECASE)
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class File:
    """One file of a version: `path` relative POSIX, `size` in bytes, `digest` of its content."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to load a version: the file or folder at `path` holds it in `format`."""

    format: str
    path: str


@dataclass(frozen=True, slots=True)
class Metric:
    """One number, of the whole or of a slice of a dataset."""

    name: str
    value: float
    dataset: str = ""
    slice: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a publisher says about a version, beside its files.

    Metrics (`measured`: on datasets), tags, metadata and parameters may change later (amend.py); all else is as immutable as
    the bytes.
    """

    format: str
    variants: Sequence[Variant] = ()
    signature: dict[str, Any] | None = None
    example: str | None = None
    description: str = ""
    metrics: dict[str, float] | None = None
    measured: Sequence[Metric] = ()
    tags: dict[str, str] | None = None
    metadata: dict[str, Any] | None = None
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Pointer:
    """A stage or alias. `number` is None while nothing holds it; `generation` grows by one with every move."""

    model: str
    name: str
    kind: PointerKind
    number: int | None
    generation: int
    moved_at: datetime
    moved_by: str


@dataclass(frozen=True, slots=True)
class Promotion:
    """The outcome of a promotion. `moved` is False when everything already was as asked, or others have to approve: then
    `request` is the number of the promotion request.
    """

    model: str
    number: int | None
    stage: Stage | None
    pointer: Pointer | None
    moved: bool
    revision: int | None
    request: int | None = None


def check_model_name(name: str) -> str:
    """Return `name`, or raise InvalidName."""
    if not _MODEL_NAME.fullmatch(name):
        raise InvalidName(
            "A model name has 1 to 128 letters, digits, dots, hyphens and underscores, "
            "and starts and ends with a letter or digit."
        )
    return name


def check_workspace_name(name: str) -> str:
    """Return `name`, or raise InvalidName."""
    if not re.fullmatch(WORKSPACE_NAME, name, re.ASCII):
        raise InvalidName(
            "A workspace name has 1 to 64 lower-case letters, digits and hyphens, and starts and ends with a letter or digit."
        )
    return name


def check_principal_name(name: str) -> str:
    """Return the name of a person, robot or group, or raise InvalidName."""
    if not _PRINCIPAL_NAME.fullmatch(name):
        raise InvalidName(
            "The name of a person, robot or group has 1 to 128 letters, digits and any of . _ @ + -, and starts with a "
            "letter or digit."
        )
    return name


def check_pointer_name(name: str) -> PointerKind:
    """Return what kind of pointer `name` is, or raise InvalidName."""
    if name in POINTER_STAGES:
        return "stage"
    if not _ALIAS.fullmatch(name) or _RESERVED_ALIAS.fullmatch(name):
        raise InvalidName(
            "An alias has 1 to 64 letters, digits, hyphens and underscores, starts with a letter, "
            'and is neither a stage, nor "latest", nor a version like "v3".'
        )
    return "alias"


def check_digest(digest: str) -> str:
    """Return `digest`, or raise InvalidDigest."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidDigest('A digest is "sha256:" and 64 lower-case hexadecimal digits.')
    return digest


def check_path(path: str) -> str:
    """Return `path`, or raise InvalidPath.

    A path is a logical name: the registry never uses it as a place on a disk. The rules exist for the machines
    that download the file, whatever their operating system.
    """
    try:
        encoded = path.encode()
    except UnicodeEncodeError as error:
        raise InvalidPath("A file path must be valid Unicode.") from error
    segments = path.split("/")
    if len(encoded) > MAX_PATH_BYTES or len(segments) > MAX_SEGMENTS:
        raise InvalidPath(f"A file path has at most {MAX_PATH_BYTES} bytes and {MAX_SEGMENTS} segments.")
    for segment in segments:
        _check_segment(segment)
    return path


def _check_segment(segment: str) -> None:
    unsafe = (
        segment in ("", ".", "..")
        or segment[0] in "~-$"
        or segment[-1] in ". "
        or any(c in "\\:" or ord(c) < 32 or 127 <= ord(c) < 160 for c in segment)
        or len(segment.encode()) > MAX_SEGMENT_BYTES
        or _WINDOWS_DEVICE.fullmatch(segment)
    )
    if unsafe:
        raise InvalidPath(
            "A file path is relative, has forward slashes only, no empty, '.' or '..' segment, no colon, backslash or "
            "control character, no segment that starts with '~', '-' or '$' or ends with a dot or space, "
            f"no device name, and at most {MAX_SEGMENT_BYTES} bytes a segment."
        )


def check_files(files: Sequence[File]) -> dict[str, File]:
    """Return the files by path; raise InvalidFiles, InvalidPath or InvalidDigest."""
    if not 1 <= len(files) <= MAX_FILES:
        raise InvalidFiles(f"A version has between 1 and {MAX_FILES} files.")
    sizes: dict[str, int] = {}
    for file in files:
        check_path(file.path)
        check_digest(file.digest)
        if sizes.setdefault(file.digest, file.size) != file.size:
            raise InvalidFiles("Two files have one digest but different sizes.")
    by_path = {file.path: file for file in files}
    # Two paths that differ in case only would overwrite each other on many disks.
    if len({path.casefold() for path in by_path}) != len(files):
        raise InvalidFiles("Two files have the same path, or paths that differ in upper and lower case only.")
    folders = {folder for path in by_path for folder in _folders(path)}
    if folders & by_path.keys():
        raise InvalidFiles("A path is both a file and a folder.")
    return by_path


def _folders(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ("/".join(parts[:depth]) for depth in range(1, len(parts)))


def check_facts(facts: Facts, paths: Iterable[str]) -> None:
    """Raise InvalidFacts when variants or the example name nothing among `paths`, or something has a name twice."""
    known = set(paths)
    known |= {folder for path in known for folder in _folders(path)} | {"."}
    for variant in facts.variants:
        if variant.path not in known:
            raise InvalidFacts("A variant names a path that is not among the files.")
    if facts.example is not None and facts.example not in known:
        raise InvalidFacts("The example names a path that is not among the files.")
    for side in ("inputs", "outputs"):
        names = [tensor["name"] for tensor in (facts.signature or {}).get(side, [])]
        if len(set(names)) != len(names):
            raise InvalidFacts(f"Two {side} of the signature have the same name.")
    measured = [Metric(name, 0.0) for name in facts.metrics or {}] + list(facts.measured)
    if len({(each.name, each.dataset, each.slice) for each in measured}) < len(measured):
        raise InvalidFacts("One metric is given twice for the same dataset and slice.")


def canonical_json(value: object) -> bytes:
    """The one byte sequence that stands for `value` wherever something is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def manifest_digest(files: Iterable[File]) -> str:
    """The digest that identifies a version's content: SHA-256 of its files' paths, sizes and digests in path order."""
    listed = [
        {"path": f.path, "size": f.size, "digest": f.digest} for f in sorted(files, key=lambda f: f.path)
    ]
    return sha256(canonical_json({"schema": "modelyard.manifest/1", "files": listed}))


def stage_of(held: Iterable[str], *, archived: bool) -> Stage:
    """The stage of a version that the pointers `held` point to."""
    names = set(held)
    if "production" in names:
        return "production"
    if "staging" in names:
        return "staging"
    return "archived" if archived else "none"

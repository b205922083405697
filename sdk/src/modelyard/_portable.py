"""Export and import: a version leaves one registry as a file and enters another, the same to the last byte.

    export    download, verified  ->  a layout in a private directory beside the goal  ->  one rename
    import    index -> manifest -> config, each by its digest  ->  paths and the version's digest checked
              ->  blobs copied out and verified, in a private directory  ->  upload, as the next version

_oci.py says what the documents mean, _archive.py where the bytes lie.
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard._archive import (
    Layout,
    blob_name,
    copy_blob,
    open_layout,
    read_blob,
    read_document,
    write_directory,
    write_tar,
)
from modelyard._errors import CaptureWarning, IntegrityError, InvalidArchive, InvalidPath
from modelyard._manifest import RESERVED
from modelyard._oci import Content, artifact_of, facts_of, read_index, read_manifest, read_name
from modelyard._parallel import Meter, Progress
from modelyard._ref import Ref, check_model
from modelyard._types import File, Version

if TYPE_CHECKING:
    from modelyard._client import Client

SUFFIX = ".modelyard"


def export(
    client: "Client",
    ref_or_version: str | Ref | Version,
    dest: str | os.PathLike[str] | None = None,
    *,
    directory: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a version as an OCI image layout in the shape of CNCF ModelPack; returns where it is.

    One tar file, or with `directory` a directory. `dest` must not exist, or be an existing directory, in which it is
    called NAME-NUMBER.modelyard.tar (or NAME-NUMBER.modelyard). The same version always gives the same bytes. Needs
    space for the version's files twice while a tar is written. Raises InvalidPath when `dest` cannot be used, and what
    `Client.download` raises.
    """
    version = ref_or_version if isinstance(ref_or_version, Version) else client.resolve(ref_or_version)
    goal = _goal(version, Path(dest or ".").expanduser().absolute(), directory=directory)
    try:
        with tempfile.TemporaryDirectory(prefix=".modelyard-", dir=goal.parent) as private:
            content = client.download(version, Path(private) / "content", progress=progress)
            _write(version, content, Path(private) / "archive", directory=directory).rename(goal)
    except OSError as error:
        raise InvalidPath(f"{str(goal)!r} cannot be written: {error.strerror}.") from error
    return goal


def _goal(version: Version, dest: Path, *, directory: bool) -> Path:
    name = f"{version.model}-{version.number}{SUFFIX}" + ("" if directory else ".tar")
    goal = dest / name if dest.is_dir() else dest
    if os.path.lexists(goal):
        raise InvalidPath(f"{str(goal)!r} exists already: remove it, or name another destination.")
    if not goal.parent.is_dir():
        raise InvalidPath(f"There is no directory {str(goal.parent)!r} to export into: create it first.")
    return goal


def _write(version: Version, content: Path, out: Path, *, directory: bool) -> Path:
    blobs = {file.digest: content / file.path for file in version.files}
    if directory:
        out.mkdir()  # with the permissions that the user's umask gives
        write_directory(out, artifact_of(version), blobs)
        return out
    with out.open("xb") as stream:
        write_tar(stream, artifact_of(version), blobs, version.created_at)
        stream.flush()
        os.fsync(stream.fileno())
    return out


def import_(
    client: "Client",
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    progress: Progress | None = None,
) -> Version:
    """Make an exported version the next version of `name`, which is its own name if not given. Its digest stays.

    `path` is what `export` wrote, or another tool's OCI layout with one CNCF ModelPack artifact of raw layers: then the
    format is guessed as by `Client.register`. Nothing reaches the registry before all of it is verified. Raises
    InvalidArchive for what is no such archive, InvalidPath for unsafe paths in it, IntegrityError for wrong bytes.
    """
    with (
        open_layout(Path(path).expanduser().absolute()) as layout,
        tempfile.TemporaryDirectory(prefix="modelyard-") as private,
    ):
        content = _read(layout)
        model, root = _model(name, content), Path(private)
        first, second = two_steps(progress, sum(file.size for file in content.files))
        _unpack(layout, content.files, root, first)
        facts = facts_of(content.version) if content.version else _guess(root, content.files)
        version = client._upload(model, root, list(content.files), facts, second)  # noqa: SLF001 - of this package
    if content.version and version.digest != content.version.digest:
        raise IntegrityError(
            f"The registry calls {version.model}/{version.number} {version.digest}, but {content.version.digest} was sent."
        )
    return version


def two_steps(progress: Progress | None, size: int) -> tuple[Progress | None, Progress | None]:
    """One Progress for two steps after each other, of which the first moves `size` bytes and the second up to as many."""
    if progress is None:
        return None, None
    return lambda done, _: progress(done, 2 * size), lambda done, total: progress(size + done, size + total)


def _read(layout: Layout) -> Content:
    """Index, manifest and config, each verified; nothing else may be in the archive but the files that they name."""
    entry = read_index(read_document(layout, "index.json"))
    content = read_manifest(read_blob(layout, entry.digest, entry.size))
    config = content.config
    name = read_name(read_blob(layout, config.digest, config.size), content.files)
    digests = {entry.digest, config.digest, *(file.digest for file in content.files)}
    layout.expect({"oci-layout", "index.json", *(blob_name(digest) for digest in digests)})
    return replace(content, name=content.version.model if content.version else name)


def _model(chosen: str | None, content: Content) -> str:
    if name := chosen or content.name:
        return check_model(name)
    raise InvalidArchive(
        "The archive does not tell the model's name: say it, as in `modelyard import FILE NAME`."
    )


def _unpack(layout: Layout, files: Sequence[File], root: Path, progress: Progress | None) -> None:
    """Write `files`, whose paths were checked, below the private directory `root`."""
    needed, free = sum(file.size for file in files), shutil.disk_usage(root).free
    if needed > free:
        raise InvalidPath(
            f"The version has {needed} bytes, but {str(root.parent)!r} has only {free} free: set TMPDIR."
        )
    meter = Meter(needed, progress)
    try:
        for file in files:
            target = root / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_blob(layout, file.digest, file.size, target, meter.add)
    except OSError as error:
        raise InvalidPath(
            f"The archive cannot be unpacked below {str(root.parent)!r}: {error.strerror}."
        ) from error


def _guess(root: Path, files: Sequence[File]) -> dict[str, Any]:
    """Facts about files that another tool packed, as `Client.register` would find them."""
    from modelyard._formats import describe, guess

    if any(file.path.partition("/")[0].casefold() == RESERVED for file in files):
        raise InvalidPath(
            f"The folder {RESERVED}/ is reserved for what this package writes itself: it did not write this."
        )
    described = describe(root, files, guess(files), ())
    if described.note:
        warnings.warn(described.note, CaptureWarning, stacklevel=3)
    return {
        "format": described.format,
        "variants": [variant.to_wire() for variant in described.variants],
        "signature": described.signature and described.signature.to_wire(),
        "example": None,
        "description": "",
        "metrics": {},
        "tags": {},
    }

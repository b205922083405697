"""An OCI image layout, as one tar file or as a directory: where its bytes lie, and nothing of what they mean.

    oci-layout   index.json   blobs/sha256/<64 hexadecimal digits>…

    write    sorted, no owner, one time for all: the same version gives the same bytes
    read     nothing is ever extracted by the name that an archive gives it. A blob is asked for by digest, counted and
             hashed while it is copied to a path of ours, and bytes beyond its size are not read

A tar may hold the layout and nothing else. Links, devices, sparse files and two members of one name are refused.
"""

import contextlib
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from modelyard._errors import IntegrityError, InvalidArchive
from modelyard._manifest import CHUNK, MAX_FILES, open_regular, sha256
from modelyard._oci import Artifact

BLOBS = "blobs/sha256"
MAX_DOCUMENT_BYTES = 32 * CHUNK
"""More than the manifest of the longest version that a registry takes."""

_LAYOUT = json.dumps({"imageLayoutVersion": "1.0.0"}).encode()
_FOLDERS = {".", "blobs", BLOBS}
_MAX_MEMBERS = MAX_FILES + 16


def blob_name(digest: str) -> str:
    """Where the blob with `digest` lies in a layout."""
    return f"{BLOBS}/{digest.removeprefix('sha256:')}"


def write_directory(root: Path, artifact: Artifact, blobs: Mapping[str, Path]) -> None:
    """Make the new directory `root` a layout; the files in `blobs`, by digest, are moved into it."""
    (root / BLOBS).mkdir(parents=True)
    for name, content in _documents(artifact):
        (root / name).write_bytes(content)
    for digest, source in blobs.items():
        source.replace(root / blob_name(digest))


def write_tar(out: BinaryIO, artifact: Artifact, blobs: Mapping[str, Path], time: datetime) -> None:
    """Write a layout as a tar, straight from the files in `blobs`, by digest."""
    with tarfile.TarFile(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, copybufsize=CHUNK) as archive:
        for name, content in _documents(artifact):
            archive.addfile(_member(name, len(content), time), io.BytesIO(content))
        for digest, source in sorted(blobs.items()):
            with open_regular(source) as stream:
                size = os.fstat(stream.fileno()).st_size
                archive.addfile(_member(blob_name(digest), size, time), stream)


def _documents(artifact: Artifact) -> list[tuple[str, bytes]]:
    named = [(blob_name(sha256(content)), content) for content in (artifact.manifest, artifact.config)]
    return [("oci-layout", _LAYOUT), ("index.json", artifact.index), *named]


def _member(name: str, size: int, time: datetime) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o644, int(time.timestamp())
    return member


class Layout(Protocol):
    """An open layout."""

    def open(self, name: str) -> BinaryIO:
        """The regular file `name`, to be read and closed; InvalidArchive if there is none."""

    def expect(self, names: Collection[str]) -> None:
        """Raise InvalidArchive if something else than `names` was put in."""


@contextlib.contextmanager
def open_layout(path: Path) -> Iterator[Layout]:
    """Open the tar or directory at `path`. Raises InvalidArchive if it is neither, InvalidPath if it cannot be read."""
    if path.is_dir():
        yield _Directory(path)
        return
    with open_regular(path) as stream:
        try:
            yield _Tar(stream)
        except tarfile.TarError as error:
            raise InvalidArchive(f"{str(path)!r} is no complete, uncompressed tar file: {error}.") from error


def read_document(layout: Layout, name: str) -> bytes:
    """A small file of the layout."""
    content = bytearray()
    with layout.open(name) as stream:
        while chunk := stream.read(CHUNK):  # asked for at once, the limit itself would be reserved
            content += chunk
            if len(content) > MAX_DOCUMENT_BYTES:
                raise InvalidArchive(
                    f"{name} of the archive is too large: at most {MAX_DOCUMENT_BYTES} bytes."
                )
    return bytes(content)


def read_blob(layout: Layout, digest: str, size: int) -> bytes:
    """A document that is stored as a blob, verified."""
    content = read_document(layout, blob_name(digest))
    if (len(content), sha256(content)) != (size, digest):
        raise _damaged(digest)
    return content


def copy_blob(layout: Layout, digest: str, size: int, target: Path, count: Callable[[int], None]) -> None:
    """Copy a blob to the new file `target`; `count` hears of every chunk. Raises IntegrityError for wrong bytes."""
    left, hasher = size, hashlib.sha256()
    with layout.open(blob_name(digest)) as stream, target.open("xb") as out:
        while left and (chunk := stream.read(min(CHUNK, left))):
            hasher.update(chunk)
            out.write(chunk)
            count(len(chunk))
            left -= len(chunk)
        if left or stream.read(1) or "sha256:" + hasher.hexdigest() != digest:
            raise _damaged(digest)


def _damaged(digest: str) -> IntegrityError:
    return IntegrityError(
        f"Blob {digest} of the archive does not hold the bytes that its digest and size promise. Nothing was imported: "
        "fetch the archive again."
    )


class _Directory:
    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, name: str) -> BinaryIO:
        if not os.path.lexists(self._root / name):
            raise _missing(name)
        return open_regular(self._root / name)

    def expect(self, names: Collection[str]) -> None:
        """Other files in a directory are nobody's business: tools keep folders of their own there."""


class _Tar:
    def __init__(self, stream: BinaryIO) -> None:
        try:
            self._archive = tarfile.TarFile(fileobj=cast("BinaryIO", _Thrifty(stream)))
            self._members = _scan(self._archive)
        except (ValueError, OverflowError, OSError, RecursionError) as error:
            # What else tarfile lets pass when headers are hostile.
            raise tarfile.ReadError(str(error)) from error

    def open(self, name: str) -> BinaryIO:
        member = self._members.get(name)
        stream = member and self._archive.extractfile(member)
        if stream is None:
            raise _missing(name)
        return cast("BinaryIO", stream)

    def expect(self, names: Collection[str]) -> None:
        if others := sorted(self._members.keys() - set(names)):
            raise InvalidArchive(f"{others[0]!r} does not belong into the archive of a version.")


class _Thrifty:
    """A stream that refuses to read much at once: a header announces as many bytes as it likes."""

    def __init__(self, stream: BinaryIO) -> None:
        self.seek, self.tell, self._read = stream.seek, stream.tell, stream.read

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= CHUNK:
            raise tarfile.ReadError("a header is too large")
        return self._read(size)


def _scan(archive: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """The regular files of a tar by name. Raises InvalidArchive for everything that is not one, but a layout's folders."""
    members: dict[str, tarfile.TarInfo] = {}
    for seen, member in enumerate(archive):
        name = member.name.removeprefix("./")
        if seen >= _MAX_MEMBERS or name in members:
            raise InvalidArchive(f"The archive has too many members, or {name!r} twice.")
        if member.isdir() and name in _FOLDERS:
            continue
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise InvalidArchive(
                f"{name!r} does not belong into an archive: it is a link, folder or special file."
            )
        members[name] = member
    return members


def _missing(name: str) -> InvalidArchive:
    return InvalidArchive(
        f"There is no file {name} in the archive. Is it complete, and made by `modelyard export`?"
    )

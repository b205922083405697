"""The manifest: which files a version has, and the digest that identifies its content.

    directory ── survey() ──> [Entry…] ── collect() ──> [File…] ── manifest_digest() ──> "sha256:…"      the registry computes the same

    {"files":[{"digest":"sha256:…","path":"a/b","size":7},…in path order…],"schema":"modelyard.manifest/1"}
    UTF-8, keys sorted, no spaces, nothing escaped that JSON does not require to be

A path is safe or refused, never repaired: the rules hold for what is sent to the registry and for what comes back.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from modelyard._errors import InvalidPath
from modelyard._types import Entry, File

SCHEMA = "modelyard.manifest/1"
RESERVED = "modelyard"
"""The folder inside a version that holds what this package writes itself."""

MAX_FILES = 4096
MAX_PATH_BYTES = 1024
MAX_SEGMENTS = 64
MAX_SEGMENT_BYTES = 255
CHUNK = 1 << 20

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def manifest_digest(files: Iterable[File]) -> str:
    """The digest that identifies these files, whatever order they come in."""
    import json

    listed = [each.to_wire() for each in sorted(files, key=lambda each: each.path)]
    manifest = {"files": listed, "schema": SCHEMA}
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(text.encode())


def sha256(content: bytes | memoryview) -> str:
    import hashlib

    return "sha256:" + hashlib.sha256(content).hexdigest()


def check_path(path: str) -> None:
    """Raise InvalidPath unless `path` is a relative path that is harmless on every operating system."""
    segments = path.split("/")
    if not _encodes(path):
        raise InvalidPath(f"{path!r} is not valid Unicode: rename the file.")
    if len(path.encode()) > MAX_PATH_BYTES or len(segments) > MAX_SEGMENTS:
        raise InvalidPath(
            f"{path!r} is too long: at most {MAX_PATH_BYTES} bytes and {MAX_SEGMENTS} segments."
        )
    for segment in segments:
        if reason := _flaw(segment):
            raise InvalidPath(f"{path!r} cannot be a file of a version: {reason}.")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _flaw(segment: str) -> str | None:
    """Why `segment` cannot be part of a path; None when it can."""
    if segment in ("", ".", ".."):
        return "it has an empty, '.' or '..' segment, or starts or ends with a slash"
    if any(c in "\\:" or ord(c) < 32 or 127 <= ord(c) < 160 for c in segment):
        return "it has a backslash, a colon or a control character"
    if segment[0] in "~-$":
        return f"a segment starts with {segment[0]!r}"
    if segment[-1] in ". ":
        return "a segment ends with a dot or a space"
    if len(segment.encode()) > MAX_SEGMENT_BYTES:
        return f"a segment has more than {MAX_SEGMENT_BYTES} bytes"
    if _DEVICE.fullmatch(segment):
        return f"{segment!r} is a device on Windows"
    return None


def check_files(files: Sequence[File]) -> None:
    """Raise InvalidPath unless these files can all be written into one directory, on any operating system."""
    _check_paths([file.path for file in files])
    for file in files:
        if not _DIGEST.fullmatch(file.digest) or file.size < 0:
            raise InvalidPath(f"{file.path!r} has no usable digest or size.")


def _check_paths(paths: list[str]) -> None:
    if not 1 <= len(paths) <= MAX_FILES:
        raise InvalidPath(f"A version has between 1 and {MAX_FILES} files, not {len(paths)}.")
    for path in paths:
        check_path(path)
    _check_collisions(paths)


def _check_collisions(paths: list[str]) -> None:
    # Where file names ignore case, "A" would overwrite "a"; and nothing can be a file and a folder at once.
    seen: dict[str, str] = {}
    for path in paths:
        if (folded := path.casefold()) in seen:
            raise InvalidPath(f"{seen[folded]!r} and {path!r} are the same file, at least on some systems.")
        seen[folded] = path
    for path in paths:
        for end in (at for at, c in enumerate(path) if c == "/"):
            if path[:end].casefold() in seen:
                raise InvalidPath(f"{path[:end]!r} is both a file and a folder.")


def survey(root: Path, *, own: bool = False) -> list[Entry]:
    """Every file under the directory `root` (or the one file `root`), in path order.

    Raises InvalidPath, naming the file, for symbolic links, special files, unsafe names and, unless `own`, the folder
    `modelyard/`, which is reserved. Empty folders are not part of a version.
    """
    entries = list(_walk(root, "")) if root.is_dir() else [Entry(root.name, root.stat().st_size)]
    if not own and any(entry.path.split("/", 1)[0].casefold() == RESERVED for entry in entries):
        raise InvalidPath(
            f"The folder {RESERVED}/ is reserved for what this package writes itself: rename yours."
        )
    if not entries:
        raise InvalidPath(f"There is no file in {str(root)!r}.")
    _check_paths([entry.path for entry in entries])
    return sorted(entries, key=lambda entry: entry.path)


def collect(root: Path, *, own: bool = False) -> list[File]:
    """Hash every file of `survey`, which says what is raised."""
    return [hash_file(locate(root, entry.path), entry.path) for entry in survey(root, own=own)]


def locate(root: Path, path: str) -> Path:
    """Where the file `path` of a collected `root` lies: `root` is a directory, or is that file."""
    return root / path if root.is_dir() else root


def _walk(folder: Path, prefix: str) -> Iterator[Entry]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            if entry.is_symlink():
                raise InvalidPath(f"{path!r} is a symbolic link: put the file itself there, or leave it out.")
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder / entry.name, path + "/")
            elif entry.is_file(follow_symlinks=False):
                yield Entry(path, entry.stat(follow_symlinks=False).st_size)
            else:
                raise InvalidPath(f"{path!r} is not a regular file (a pipe, socket or device): leave it out.")


def hash_file(source: Path, path: str) -> File:
    """The file of a version that `source` is, at `path` in the version."""
    with open_regular(source) as stream:
        size, digest = hash_stream(stream)
    return File(path=path, size=size, digest=digest)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; a link or a special file that was slipped in meanwhile raises InvalidPath."""
    # O_NONBLOCK: opening a pipe without a writer would wait for ever. Windows has neither flag.
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        stream = os.fdopen(os.open(path, os.O_RDONLY | flags), "rb")
    except OSError as error:
        raise InvalidPath(f"{str(path)!r} cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise InvalidPath(f"{str(path)!r} is not a regular file.")
    return stream


def hash_stream(stream: BinaryIO) -> tuple[int, str]:
    """Read to the end; return how many bytes there were, and their digest."""
    import hashlib

    hasher, size = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK):
        hasher.update(chunk)
        size += len(chunk)
    return size, "sha256:" + hasher.hexdigest()

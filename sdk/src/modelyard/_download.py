"""Download: from a version in the registry to a directory that is complete and verified, or not there.

list     GET /downloads           paths, sizes, digests, URLs; refused as a whole unless every path is safe and
                                  the manifest's digest is the version's. Until then no byte is written
fetch    GET each file            in parallel, hashed while it is written, into a private directory beside the goal
settle   fsync, then one rename   the directory appears complete
"""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from modelyard._errors import ApiError, IntegrityError, InvalidPath, UnexpectedAnswer
from modelyard._http import Http, retrying
from modelyard._manifest import check_files, manifest_digest
from modelyard._parallel import Attempt, Meter, Progress, in_parallel
from modelyard._types import File, Version

PRIVATE_PREFIX = ".modelyard-"


def download_into(http: Http, version: Version, dest: Path, progress: Progress | None) -> Path:
    """Fill `dest`, which must not exist or be empty. Raises InvalidPath, IntegrityError, ConnectionFailed or ApiError."""
    dest = dest.absolute()
    _check_dest(dest)
    source = Source(http, version)
    files = source.files()
    with private_directory(dest.parent) as private:
        fresh = fetch(source, files, private, progress)
        try:
            # POSIX lets a directory replace an empty one, and refuses if somebody put something in meanwhile.
            fresh.rename(dest)
        except OSError as error:
            raise InvalidPath(f"{str(dest)!r} cannot be put in place: {error.strerror}.") from error
    sync_directory(dest.parent)
    return dest


def _check_dest(dest: Path) -> None:
    if not dest.parent.is_dir():
        raise InvalidPath(f"There is no directory {str(dest.parent)!r} to download into: create it first.")
    if dest.is_symlink() or (dest.exists() and not dest.is_dir()):
        raise InvalidPath(f"{str(dest)!r} is not a directory: name one that does not exist yet, or is empty.")
    if dest.exists() and any(dest.iterdir()):
        raise InvalidPath(
            f"{str(dest)!r} is not empty: name a directory that does not exist yet, or is empty."
        )


@contextlib.contextmanager
def private_directory(parent: Path) -> Iterator[Path]:
    """A new directory in `parent` that only its owner can enter, removed at the end whatever happens."""
    path = parent / f"{PRIVATE_PREFIX}{secrets.token_hex(8)}"
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        raise InvalidPath(f"{str(parent)!r} cannot be written to: {error.strerror}.") from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Source:
    """The files of one version, and where to fetch each from at the moment."""

    def __init__(self, http: Http, version: Version) -> None:
        self.http = http
        self._version = version
        self._urls: dict[str, str] = {}

    def files(self) -> Sequence[File]:
        """Ask the registry. Raises IntegrityError when the answer is not the version's manifest."""
        answer = self.http.get(
            f"/api/v1/models/{self._version.model}/versions/{self._version.number}/downloads"
        )
        try:
            files = [File.from_wire(each) for each in answer["files"]]
            urls = {each["path"]: str(each["url"]) for each in answer["files"]}
        except (KeyError, TypeError) as error:
            raise UnexpectedAnswer("The registry's list of downloads cannot be understood.") from error
        name = f"{self._version.model}/{self._version.number}"
        try:
            check_files(files)
        except InvalidPath as error:
            raise IntegrityError(
                f"The registry's list of files of {name} is refused, nothing was written: {error}"
            ) from error
        if manifest_digest(files) != self._version.digest:
            raise IntegrityError(
                f"The registry's list of files of {name} is not the one that its digest stands for."
            )
        self._urls = urls
        return files

    def url(self, path: str) -> str:
        return self._urls[path]


def fetch(source: Source, files: Sequence[File], private: Path, progress: Progress | None) -> Path:
    """Download and verify `files` into a new directory inside `private`; returns that directory, safe on disk."""
    root = private / "content"
    try:
        root.mkdir()  # with the permissions that the user's umask gives, unlike `private`
        _make_room(root, files)
        meter = Meter(sum(file.size for file in files), progress)
        in_parallel(lambda file: _fetch_file(source, file, root / file.path, meter), files, meter.stop)
        for folder, _, _ in os.walk(root):
            sync_directory(Path(folder))
    except OSError as error:
        raise InvalidPath(
            f"The download cannot be written to {str(private.parent)!r}: {error.strerror}."
        ) from error
    return root


def _make_room(root: Path, files: Sequence[File]) -> None:
    needed, free = sum(file.size for file in files), shutil.disk_usage(root).free
    if needed > free:
        raise InvalidPath(f"The version has {needed} bytes, but only {free} are free where it is to go.")
    for folder in {(root / file.path).parent for file in files}:
        folder.mkdir(parents=True, exist_ok=True)


def _fetch_file(source: Source, file: File, target: Path, meter: Meter) -> None:
    try:
        retrying(lambda: _fetch_once(source, file, target, meter))
    except ApiError as error:
        if error.code != "store_refused":
            raise
        # A presigned URL expired, or the bytes moved: the registry knows where they are now.
        source.files()
        retrying(lambda: _fetch_once(source, file, target, meter))


def _fetch_once(source: Source, file: File, target: Path, meter: Meter) -> None:
    attempt = Attempt(meter)
    try:
        with source.http.stream(source.url(file.path)) as chunks, target.open("xb") as out:
            _write_verified(attempt.count(chunks), file, out)
    except BaseException:
        target.unlink(missing_ok=True)
        attempt.take_back()
        raise


def _write_verified(chunks: Iterator[bytes], file: File, out: BinaryIO) -> None:
    written, hasher = 0, hashlib.sha256()
    for chunk in chunks:
        written += len(chunk)
        # Checked before it is written: an endless answer must not fill the disk.
        if written > file.size:
            raise _damaged(file)
        hasher.update(chunk)
        out.write(chunk)
    if (written, "sha256:" + hasher.hexdigest()) != (file.size, file.digest):
        raise _damaged(file)
    out.flush()
    os.fsync(out.fileno())


def _damaged(file: File) -> IntegrityError:
    return IntegrityError(
        f"The bytes received for {file.path!r} are not those that its digest promises; nothing was kept. Try again; if it "
        "happens again, they are damaged in the registry's store."
    )


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

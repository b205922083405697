"""Download: from a version in the registry to a directory that is complete and verified, or not there.

list     GET /downloads           paths, sizes, digests, blobs; refused as a whole unless every path is safe and the
                                  manifest's digest is the version's. Until then no byte is written
fetch    GET ranges of blobs      in parallel, each written to where it belongs, into a private directory beside the goal
verify   every file is hashed     in its order, behind what has arrived
settle   one rename               the directory appears complete
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from modelyard._arriving import Arriving
from modelyard._errors import ApiError, IntegrityError, InvalidPath, UnexpectedAnswer
from modelyard._http import Http, retrying
from modelyard._listing import Listing, Read
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
    """The files of one version, and where to fetch their bytes from at the moment."""

    def __init__(self, http: Http, version: Version) -> None:
        self.http = http
        self._version = version
        self._listing = Listing({}, {})

    def files(self) -> Sequence[File]:
        """Ask the registry. Raises IntegrityError when the answer is not the version's manifest."""
        answer = self.http.get(
            f"/api/v1/models/{self._version.model}/versions/{self._version.number}/downloads"
        )
        try:
            files = [File.from_wire(each) for each in answer["files"]]
            listing = Listing.from_wire(answer)
        except (KeyError, TypeError, ValueError) as error:
            raise UnexpectedAnswer("The registry's list of downloads cannot be understood.") from error
        name = f"{self._version.model}/{self._version.number}"
        try:
            check_files(files)
            listing.check(files)
        except InvalidPath as error:
            raise IntegrityError(
                f"The registry's list of files of {name} is refused, nothing was written: {error}"
            ) from error
        if manifest_digest(files) != self._version.digest:
            raise IntegrityError(
                f"The registry's list of files of {name} is not the one that its digest stands for."
            )
        if self._listing.segments not in ({}, listing.segments):
            raise UnexpectedAnswer(
                f"The registry has put the bytes of {name} elsewhere meanwhile: try again."
            )
        self._listing = listing
        return files

    def reads(self, files: Sequence[File]) -> list[Read]:
        return self._listing.reads(files)

    def url(self, blob: int) -> str:
        return self._listing.blobs[blob][0]


def fetch(source: Source, files: Sequence[File], private: Path, progress: Progress | None) -> Path:
    """Download and verify `files` into a new directory inside `private`; returns that directory."""
    return fetch_into(source, files, private / "content", progress)


def fetch_into(source: Source, files: Sequence[File], root: Path, progress: Progress | None) -> Path:
    """Download and verify `files` into the new directory `root`; returns it. What fails leaves files behind."""
    try:
        root.mkdir()  # with the permissions that the user's umask gives, unlike `private`
        _make_room(root, files)
        meter = Meter(sum(file.size for file in files), progress)
        arriving = {file.path: Arriving(file, root / file.path) for file in files}
        for each in arriving.values():
            each.create()
        in_parallel(lambda read: _fetch(source, read, arriving, meter), source.reads(files), meter.stop)
        for each in arriving.values():
            each.require_verified()
    except OSError as error:
        raise InvalidPath(
            f"The download cannot be written to {str(root.parent)!r}: {error.strerror}."
        ) from error
    return root


def _make_room(root: Path, files: Sequence[File]) -> None:
    needed, free = sum(file.size for file in files), shutil.disk_usage(root).free
    if needed > free:
        raise InvalidPath(f"The version has {needed} bytes, but only {free} are free where it is to go.")
    for folder in {(root / file.path).parent for file in files}:
        folder.mkdir(parents=True, exist_ok=True)


def _fetch(source: Source, read: Read, arriving: Mapping[str, Arriving], meter: Meter) -> None:
    try:
        retrying(lambda: _fetch_once(source, read, arriving, meter))
    except ApiError as error:
        if error.code != "store_refused":
            raise
        # A presigned URL expired, or the bytes moved: the registry knows where they are now.
        source.files()
        retrying(lambda: _fetch_once(source, read, arriving, meter))
    for part in read.parts:
        for path, at in part.places:
            arriving[path].arrived(at, part.length)


def _fetch_once(source: Source, read: Read, arriving: Mapping[str, Arriving], meter: Meter) -> None:
    attempt = Attempt(meter)
    try:
        with source.http.stream(source.url(read.blob), range_=read.range()) as pieces:
            _write(attempt.count(pieces), read, arriving)
    except BaseException:
        attempt.take_back()
        raise


def _write(pieces: Iterator[bytes], read: Read, arriving: Mapping[str, Arriving]) -> None:
    """Put what arrives to its places. Checked before it is written: an endless answer must not fill the disk."""
    arrived = _Bytes(pieces)
    for part in read.parts:
        done = 0
        for piece in arrived.take(part.length):
            for path, at in part.places:
                _write_piece(piece, arriving[path], at + done)
            done += len(piece)
    if arrived.goes_on():
        raise arriving[read.parts[-1].places[0][0]].damaged()


def _write_piece(piece: memoryview, file: Arriving, at: int) -> None:
    with file.open(at) as out:
        while piece:
            piece = piece[out.write(piece) :]


class _Bytes:
    """Pieces as they come, cut to what is asked for."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def take(self, count: int) -> Iterator[memoryview]:
        """The next `count` bytes; fewer if there are no more, which the digest of the file will show."""
        while count and (self._rest or self.goes_on()):
            piece, self._rest = self._rest[:count], self._rest[count:]
            count -= len(piece)
            yield piece

    def goes_on(self) -> bool:
        """Whether there are more bytes."""
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        return bool(self._rest)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Upload: from files on this disk to a version in the registry.

    offer    POST /uploads        these files I have            ->  those you need not send, and the chunks that are there
    send     POST, PUT each pack  cut, hash, announce, send: all at once, straight from disk to the store
    commit   POST /versions       every file as stretches of packs  ->  Version

What the registry has already is not sent: whole files of any version that we may read, chunks of large files of the newest
versions of this model, and whatever an upload that was interrupted had brought, from whichever machine. A commit whose
answer was lost is repeated and gives the same version.
"""

import itertools
import queue
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from modelyard._errors import ApiError, UnexpectedAnswer
from modelyard._http import Http, retrying
from modelyard._manifest import hash_file, locate, open_regular, sha256
from modelyard._packs import PACK, Cutting, Hashing, KnownChunks, Pack, Packer, Part, Stretches, changed
from modelyard._parallel import WORKERS, Attempt, Meter, Progress, Workers
from modelyard._types import Entry, File

ROUNDS = 3
_BUFFERS = WORKERS + 1
_ANNOUNCED = 16
_START_OVER = {"upload_incomplete", "upload_not_found", "upload_expired", "digest_mismatch", "store_refused"}
# The server hashes, copies and syncs what it received before it answers; a slow disk does this much a second.
_SERVER_BYTES_PER_S = 20e6

Blob = TypeVar("Blob", Pack, Part)


class _Ticket(NamedTuple):
    """Where to send a blob, and with which headers."""

    url: str
    headers: dict[str, str]


def upload(
    http: Http,
    model: str,
    root: Path,
    entries: Sequence[Entry | File],
    facts: dict[str, Any],
    progress: Progress | None,
) -> Any:
    """Make the `entries` of `root` a version of `model`; returns it as the registry tells it."""
    for _ in range(ROUNDS - 1):
        try:
            return _Upload(http, model, root, progress).run(entries, facts)
        except ApiError as error:
            if error.code not in _START_OVER:
                raise
    return _Upload(http, model, root, progress).run(entries, facts)


class _Upload:
    """One attempt."""

    def __init__(self, http: Http, model: str, root: Path, progress: Progress | None) -> None:
        self._http = http
        self._base = f"/api/v1/models/{model}"
        self._root = root
        self._progress = progress
        self._id = ""
        self._known = KnownChunks()
        self._stretches: dict[str, Stretches] = {}
        self._digests: set[str] = set()
        self._lock = threading.Lock()
        self._buffers: queue.Queue[bytearray | None] = queue.Queue()
        for _ in range(_BUFFERS):
            self._buffers.put(None)  # made when it is needed

    def run(self, entries: Sequence[Entry | File], facts: dict[str, Any]) -> Any:
        hashed = [self._hashed(entry) for entry in entries if isinstance(entry, File) or entry.size < PACK]
        large = [entry for entry in entries if not isinstance(entry, File) and entry.size >= PACK]
        offer = self._offer(hashed, large)
        first = [self._hashed(entry) for entry in large if entry.path in offer["hash_first"]]
        have = {*offer["have"], *self._have(first)}
        files = {file.path: file for file in [*hashed, *first]}
        self._send([files.get(entry.path, entry) for entry in entries], files, have)
        return self._commit([files[entry.path] for entry in entries], facts)

    def _hashed(self, entry: Entry | File) -> File:
        return entry if isinstance(entry, File) else hash_file(locate(self._root, entry.path), entry.path)

    def _offer(self, hashed: Sequence[File], large: Sequence[Entry]) -> dict[str, Any]:
        body = {
            "packed": True,
            "files": [file.to_wire() for file in hashed],
            "unhashed": [{"path": entry.path, "size": entry.size} for entry in large],
        }
        offer = self._http.send("POST", f"{self._base}/uploads", body, repeatable=True)
        try:
            self._id = str(offer["id"])
            self._cutting = Cutting.from_wire(offer["cutting"])
            if large:  # else the cutter, whose import takes a while, is not needed
                self._cutting.cutter()
            for base in offer["bases"]:
                self._known.add_stored(_segments(base["segments"]), _from_base64(base["chunks"]))
            return {"have": _texts(offer["have"]), "hash_first": _texts(offer["hash_first"])}
        except (LookupError, TypeError, ValueError) as error:
            raise _not_understood() from error

    def _have(self, files: Sequence[File]) -> list[str]:
        if not files:
            return []
        body = {"files": [file.to_wire() for file in files]}
        answer = self._http.send("POST", f"/api/v1/uploads/{self._id}/files", body, repeatable=True)
        try:
            return _texts(answer["have"])
        except (KeyError, TypeError) as error:
            raise _not_understood() from error

    def _send(self, entries: Sequence[Entry | File], files: dict[str, File], have: set[str]) -> None:
        """Send what is needed; `files` gets the digests that were not known before."""
        wanted, seen = [], set(have)
        for entry in entries:
            digest = entry.digest if isinstance(entry, File) else entry.path
            if digest not in seen:
                seen.add(digest)
                wanted.append(entry)
        meter = Meter(sum(entry.size for entry in wanted), self._progress)
        with Workers(meter.stop, ahead=_ANNOUNCED) as workers:
            packer = Packer(
                partial(self._new_buffer, workers),
                lambda pack: workers.submit(partial(self._send_pack, pack, meter)),
            )
            for entry in wanted:
                if isinstance(entry, File) and entry.size < PACK:
                    self._pack_whole(entry, packer)
            packer.flush()
            for entry in wanted:
                if entry.size >= PACK:
                    files[entry.path] = self._send_large(entry, packer, workers, meter)
            packer.flush()
        for path, file in files.items():  # the same content twice is sent once
            if file.digest not in have and path not in self._stretches:
                self._stretches[path] = next(
                    s for other, s in self._stretches.items() if files[other].digest == file.digest
                )

    def _new_buffer(self, workers: Workers) -> bytearray:
        while True:
            workers.check()
            try:
                return self._buffers.get(timeout=0.5) or bytearray(PACK)
            except queue.Empty:
                continue

    def _pack_whole(self, file: File, packer: Packer) -> None:
        """A small file. Read once more: it must still be what was offered."""
        stretches = self._stretches[file.path] = Stretches()
        if not file.size:
            return
        pack = packer.room(file.size)
        place = memoryview(pack.buffer)[pack.size : pack.size + file.size]
        with open_regular(locate(self._root, file.path)) as stream:
            count = stream.readinto(place)  # type: ignore[attr-defined]  # a real file has it
            if count != file.size or stream.read(1) or sha256(place) != file.digest:
                raise changed(file.path)
        stretches.add(pack, pack.size, file.size)
        pack.size += file.size

    def _send_large(self, entry: Entry | File, packer: Packer, workers: Workers, meter: Meter) -> File:
        source = locate(self._root, entry.path)
        with open_regular(source) as stream:
            hashing = Hashing(stream)
            if self._known:
                self._stretches[entry.path] = self._pack_chunks(hashing, packer, meter)
            else:  # nothing to compare with: cutting at chunks would be work for nothing
                self._stretches[entry.path] = self._send_parts(hashing.parts(source), workers, meter)
        file = File(entry.path, hashing.size, hashing.digest())
        if file.size != entry.size or (isinstance(entry, File) and file != entry):
            raise changed(entry.path)
        return file

    def _pack_chunks(self, hashing: Hashing, packer: Packer, meter: Meter) -> Stretches:
        stretches = Stretches()
        for chunk, data in self._cutting.chunks(hashing, self._known):
            places = self._known.find(chunk)
            if places is None:
                places = (packer.add(data),)
                self._known.add(chunk, places)
            else:
                meter.spare(len(data))
            for place in places:
                stretches.add(*place)
        return stretches

    def _send_parts(self, parts: Iterator[Part], workers: Workers, meter: Meter) -> Stretches:
        """The first part is sent as soon as it is hashed; later ones are announced more at a time."""
        stretches, count = Stretches(), 1
        while batch := list(itertools.islice(parts, count)):
            for part in batch:
                stretches.add(part.digest, 0, part.size)
            for part, ticket in self._announce(batch, meter):
                workers.submit(partial(self._deliver, part, ticket, meter))
            count = min(2 * count, _ANNOUNCED)
        return stretches

    def _send_pack(self, pack: Pack, meter: Meter) -> None:
        try:
            pack.hash()
            for _, ticket in self._announce([pack], meter):
                self._deliver(pack, ticket, meter)
        finally:
            self._buffers.put(pack.buffer)
            pack.buffer = bytearray()

    def _announce(self, blobs: Sequence[Blob], meter: Meter) -> list[tuple[Blob, _Ticket]]:
        """Those that have to be sent, and where to: not what is there, nor what another blob of this upload brings."""
        new = [blob for blob in blobs if self._is_first(blob)]
        tickets = self._tickets(new) if new else {}
        wanted = [(blob, tickets[blob.digest]) for blob in new if blob.digest in tickets]
        meter.spare(sum(blob.size for blob in blobs) - sum(blob.size for blob, _ in wanted))
        return wanted

    def _is_first(self, blob: Blob) -> bool:
        """Whether no other blob of this upload has the same bytes: one of several equal files, or of many zeros."""
        with self._lock:
            if blob.digest in self._digests:
                return False
            self._digests.add(blob.digest)
            return True

    def _tickets(self, blobs: Sequence[Blob]) -> dict[str, _Ticket]:
        path = f"/api/v1/uploads/{self._id}/blobs"
        listed = [{"digest": blob.digest, "size": blob.size} for blob in blobs]
        answer = self._http.send("POST", path, {"blobs": listed}, repeatable=True)
        try:
            return {
                str(need["digest"]): _Ticket(str(need["url"]), dict(need["headers"]))
                for need in answer["needs"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise _not_understood() from error

    def _deliver(self, blob: Blob, ticket: _Ticket, meter: Meter) -> None:
        try:
            retrying(partial(self._put, blob, ticket, meter))
        except ApiError as error:
            if error.code != "store_refused":
                raise
            if isinstance(blob, Part):
                blob.require_unchanged()
            # Else the URL expired, or the bytes were damaged on their way.
            for again in self._tickets([blob]).values():
                retrying(partial(self._put, blob, again, meter))

    def _put(self, blob: Blob, ticket: _Ticket, meter: Meter) -> None:
        attempt = Attempt(meter)
        try:
            pieces = attempt.count(blob.pieces())
            self._http.put(
                ticket.url, pieces, size=blob.size, headers=ticket.headers, wait_s=_server_time(blob.size)
            )
        except BaseException:
            attempt.take_back()
            raise

    def _commit(self, files: Sequence[File], facts: dict[str, Any]) -> Any:
        blobs: dict[str, int] = {}
        listed = []
        for file in files:
            wire = file.to_wire()
            if file.path in self._stretches:
                wire["segments"] = [
                    [blobs.setdefault(digest, len(blobs)), offset, length]
                    for digest, offset, length in self._stretches[file.path].resolved()
                ]
            listed.append(wire)
        return self._http.send(
            "POST",
            f"{self._base}/versions",
            {"upload": self._id, "files": listed, "blobs": list(blobs), **facts},
            wait_s=_server_time(sum(file.size for file in files)),
            repeatable=True,
        )


def _texts(listed: Sequence[Any]) -> list[str]:
    if not all(isinstance(each, str) for each in listed):
        raise TypeError("expected a list of strings")
    return list(listed)


def _segments(listed: Sequence[Any]) -> list[tuple[str, int, int]]:
    segments = [(digest, offset, length) for digest, offset, length in listed]
    for digest, *numbers in segments:
        if not (isinstance(digest, str) and all(type(each) is int and each >= 0 for each in numbers)):
            raise TypeError("segments are lists of a digest and two natural numbers")
    return segments


def _from_base64(text: str) -> bytes:
    from base64 import b64decode

    return b64decode(text, validate=True)


def _not_understood() -> UnexpectedAnswer:
    return UnexpectedAnswer("The registry's answer to an upload cannot be understood. Is it of this version?")


def _server_time(size: int) -> float:
    return size / _SERVER_BYTES_PER_S

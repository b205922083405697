"""What a store must do while many use it: 16 writers in one prefix, 8 readers of one blob, for a moment.

writer: put ──> read ──> every second blob: delete ──> read      (each writer its own keys)
reader: one large blob, whole and in part, until the writers are done
then:   each blob that was kept is there and as it was, no other is; the neighbours are as they were
"""

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from storage.verify_scratch import Broken, Check, Scratch

WRITERS, READERS = 16, 8
BLOBS = 8  # per writer
READ = 64 << 10  # bytes of the blob that everybody reads


def races(scratch: Scratch) -> str:
    before = scratch.listed()
    shared = os.urandom(READ)
    key = scratch.put(shared)
    stop = Event()
    with ThreadPoolExecutor(WRITERS + READERS) as pool:
        try:
            readers = [pool.submit(_read_on, scratch, key, shared, stop) for _ in range(READERS)]
            writers = [pool.submit(_write, scratch, stop) for _ in range(WRITERS)]
            kept = {key: data for writer in writers for key, data in writer.result().items()}
        finally:
            stop.set()
        reads = sum(reader.result() for reader in readers)
    _require_kept(scratch, kept)
    listed = scratch.listed()
    missing, gone = scratch.stored - listed, listed - before - scratch.stored
    if missing or gone:
        raise Broken(f"{len(missing)} blobs are not listed, {len(gone)} are listed and deleted")
    return f"{WRITERS * BLOBS} blobs written, {reads} reads of one blob meanwhile"


def neighbours_untouched(scratch: Scratch) -> str:
    _require_kept(scratch, scratch.neighbours)
    return f"{len(scratch.neighbours)} blobs"


def _write(scratch: Scratch, stop: Event) -> dict[str, bytes]:
    kept = {}
    for n in range(BLOBS):
        if stop.is_set():
            break
        data = os.urandom(1000 + n)
        key = scratch.put(data)
        if scratch.read(key) != data:
            raise Broken("an acknowledged blob is missing or altered")
        if n % 2:
            scratch.delete(key)
            if scratch.read(key) is not None:
                raise Broken("a deleted blob is still there")
        else:
            kept[key] = data
    return kept


def _read_on(scratch: Scratch, key: str, data: bytes, stop: Event) -> int:
    """How often the blob was read before `stop`."""
    reads = 0
    while not stop.is_set():
        if scratch.read(key) != data or scratch.read(key, 1000, 1000) != data[1000:2000]:
            raise Broken("a blob that nobody changes was read altered")
        reads += 1
    return reads


def _require_kept(scratch: Scratch, kept: dict[str, bytes]) -> None:
    lost = sum(1 for key, data in kept.items() if scratch.read(key) != data)
    if lost:
        raise Broken(f"{lost} of {len(kept)} blobs are missing or altered")


RACES = [
    Check("races", f"{WRITERS} writers and {READERS} readers at once do not harm each other", races),
    Check("others untouched", "blobs of another prefix are as they were", neighbours_untouched),
]

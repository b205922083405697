"""Sealing: bytes that went straight to the store become live blobs, once it is certain what they are.

    where the store itself refuses other bytes than the ticket's digest     being there with the right size is proof
    elsewhere                                                               the bytes are read once and written again under
                                                                            a key that no URL was ever made for

Every key is in the trash before its first byte is written. Sealing takes it out of there, in the transaction that makes the
blob live: if the sweep has claimed the key meanwhile, the blob does not become live, and its bytes are sent again.
"""

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from registry.database import Database
from registry.errors import DigestMismatch, StoreUnavailable
from registry.failpoints import failpoint
from registry.hashing import HashingReader
from registry.tables import BlobRow, TrashRow
from storage import BlobStore
from storage.errors import BlobNotFound, StorageError
from storage.errors import SizeMismatch as WrongSize
from storage.layout import new_key

AT_ONCE = 8
"""Threads that look at, or copy, objects of the store."""


def seal(database: Database, store: BlobStore, blobs: Collection[BlobRow]) -> set[int]:
    """Make live what has arrived of these blobs; returns the ids of those that are live now.

    Bytes that are not there yet are no error. Raises DigestMismatch or StoreUnavailable.
    """
    arrived = {blob.id for blob in blobs if blob.state == "live"}
    expected = [blob for blob in blobs if blob.state == "expected"]
    if not expected:
        return arrived
    try:
        keep = _checked if store.refuses_wrong_bytes() else _Copying(database)
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="seal") as pool:
            kept = zip(expected, pool.map(lambda blob: keep(store, blob), expected), strict=True)
            keys = {blob.id: key for blob, key in kept if key is not None}
    except StorageError as error:
        raise unavailable() from error
    failpoint("seal.before_live")
    make_live(database, keys)
    failpoint("seal.after_live")
    # Somebody else may have sealed the same blobs meanwhile: a commit that is repeated while the first still runs.
    with database.read() as session:
        sealed = sa.select(BlobRow).where(
            BlobRow.id.in_([blob.id for blob in expected]), BlobRow.state == "live"
        )
        live = {blob.id: blob.key for blob in session.scalars(sealed)}
    for blob in expected:
        if blob.id in live:
            for key in {blob.key, keys.get(blob.id, blob.key)} - {live[blob.id]}:
                discard(store, key)
    return arrived | live.keys()


def make_live(database: Database, keys: Mapping[int, str]) -> dict[int, str]:
    """Give expected blobs the keys where their bytes are; returns the keys of those that are live now, for somebody else
    may have been faster.
    """
    if not keys:
        return {}
    with database.write() as session:
        wanted = sa.select(BlobRow).where(BlobRow.id.in_(keys)).order_by(BlobRow.id).with_for_update()
        blobs = session.scalars(wanted).all()
        unsealed = [keys[blob.id] for blob in blobs if blob.state == "expected"]
        out_of_trash = (
            sa.delete(TrashRow)
            .where(TrashRow.key.in_(unsealed), ~TrashRow.claimed)
            .returning(TrashRow.key)
            .execution_options(synchronize_session=False)
        )
        ours = set(session.scalars(out_of_trash))
        for blob in blobs:
            if blob.state == "expected" and keys[blob.id] in ours:
                blob.state, blob.key = "live", keys[blob.id]
        session.flush()
        return {blob.id: blob.key for blob in blobs if blob.state == "live"}


def discard(store: BlobStore, key: str) -> None:
    """Remove bytes that nothing refers to. If the store refuses, the sweep does it: their key is in the trash."""
    try:
        store.delete(key)
    except StorageError:
        return


def unavailable() -> StoreUnavailable:
    return StoreUnavailable("The registry's blob store does not answer. Try again in a moment.")


def _checked(store: BlobStore, blob: BlobRow) -> str | None:
    found = store.stat(blob.key)
    return blob.key if found is not None and found.size == blob.size else None


class _Copying:
    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, store: BlobStore, blob: BlobRow) -> str | None:
        if _checked(store, blob) is None:  # not there, or still arriving: some stores show that
            return None
        key = new_key(blob.digest)
        try:
            stored = store.open(blob.key)
        except BlobNotFound:
            return None
        with self._database.write() as session:
            # as long as the trash keeps the announced key
            announced = session.get(TrashRow, blob.key)
            if announced is None:
                return None
            session.add(TrashRow(key=key, not_before=announced.not_before))
        with stored:
            hashing = HashingReader(stored)
            try:
                store.put(key, hashing, size=blob.size)
            except WrongSize:
                hashing.spoil()
        if hashing.digest() == blob.digest:
            return key  # the announced key stays until this one counts, for somebody else may be reading it
        discard(store, blob.key)
        discard(store, key)
        raise DigestMismatch(
            "Stored bytes do not have the size and digest that were announced. Upload them again."
        )

"""fsck: is everything there that the database says, and nothing else? Looks only, and shares no helper with what it checks.

    rows        numbers, pointers, history, manifests, layouts: read in one snapshot, and computed again from scratch
    store       every object that a version needs is there, with its size (deep: and its digest); nothing is there that no
                row knows

It may run beside a working registry. What looks like a leak is looked up once more in the end: an upload may have begun since.
The SQL is plain text for both databases; a mistake in tables.py or contents.py is not repeated here.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from storage import BlobStore
from storage.errors import BlobNotFound
from storage.layout import is_audit, is_trial

PIECE = 1 << 20
LOOKUPS = 500
FIRST = "sha256:" + "0" * 64

Layouts = Mapping[int, Sequence[Sequence[int]]]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: which check, of what, and how."""

    check: str
    subject: str
    detail: str


def fsck(
    database_url: str,
    store: BlobStore,
    *,
    deep: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Problem]:
    """All problems there are. `deep` reads every byte. Raises StorageError, or sa.exc.SQLAlchemyError."""
    with _snapshot(database_url) as rows:
        progress("rows")
        facts = _Facts(rows)
    progress("history")
    problems = [*_numbers(facts), *_pointers(facts), *_history(facts), *_files(facts)]
    layouts, wrong = _layouts(facts)
    problems += [*wrong, *_trash(facts)]
    progress("objects")
    sizes = {s.key: s.size for s in store.iterate() if not (is_trial(s.key) or is_audit(s.key))}
    problems += _objects(facts, sizes)
    problems += _leaks(facts, sizes, database_url, store)
    if deep:
        progress("bytes")
        problems += _bytes(facts, layouts, sizes, store)
    return problems


class _Facts:
    """What the database says, by id."""

    def __init__(self, rows: Callable[[str], list[Any]]) -> None:
        self.models = rows("SELECT id, name, next_number FROM models ORDER BY id")
        self.names = {model.id: model.name for model in self.models}
        self.versions = rows(
            "SELECT model_id, number, manifest_digest, deleted_at, purged_at FROM versions ORDER BY model_id, number"
        )
        self.files = rows("SELECT model_id, number, path, digest, content_id FROM files")
        self.contents = {
            row.id: row for row in rows("SELECT id, digest, size, layout, damaged FROM contents")
        }
        self.blobs = {row.id: row for row in rows("SELECT id, digest, size, key, state, damaged FROM blobs")}
        self.trash = {row.key for row in rows("SELECT key FROM trash")}
        self.bound: dict[int, set[int]] = defaultdict(set)
        for row in rows("SELECT content_id, blob_id FROM content_blobs"):
            self.bound[row.content_id].add(row.blob_id)
        self.pointers = rows(
            "SELECT model_id, name, number, generation FROM pointers ORDER BY model_id, name"
        )
        self.moves = rows(
            "SELECT model_id, pointer, generation, from_number, to_number, kind, actor, reason, at, digest, previous_digest"
            " FROM moves ORDER BY model_id, pointer, generation"
        )
        kept = {(v.model_id, v.number) for v in self.versions if v.purged_at is None}
        self.needed = sorted({f.content_id for f in self.files if (f.model_id, f.number) in kept})

    def blobs_needed(self) -> Iterator[tuple[int, int]]:
        """Each blob that a kept content is bound to, with one such content."""
        users = {blob: content for content in self.needed for blob in self.bound[content]}
        yield from sorted(users.items())


def _numbers(facts: _Facts) -> Iterator[Problem]:
    found = defaultdict(list)
    for version in facts.versions:
        found[version.model_id].append(version.number)
    for model in facts.models:
        if found[model.id] != list(range(1, model.next_number)):
            yield Problem(
                "numbers", model.name, f"has {found[model.id]}, but counts to {model.next_number - 1}"
            )


def _pointers(facts: _Facts) -> Iterator[Problem]:
    live = {(version.model_id, version.number) for version in facts.versions if version.deleted_at is None}
    for pointer in facts.pointers:
        if pointer.number is not None and (pointer.model_id, pointer.number) not in live:
            subject = f"{facts.names[pointer.model_id]}@{pointer.name}"
            yield Problem(
                "pointers", subject, f"holds version {pointer.number}, which was deleted or never was"
            )


def _history(facts: _Facts) -> Iterator[Problem]:
    chains = defaultdict(list)
    for move in facts.moves:
        chains[move.model_id, move.pointer].append(move)
    for pointer in facts.pointers:
        subject = f"{facts.names[pointer.model_id]}@{pointer.name}"
        held, previous, generation = None, FIRST, 0
        for move in chains.pop((pointer.model_id, pointer.name), []):
            generation += 1
            if move.generation != generation:
                yield Problem("history", subject, f"move {generation} is missing")
                break
            if (move.previous_digest, move.from_number) != (previous, held):
                yield Problem("history", subject, f"move {generation} does not follow the one before")
            if move.digest != _move_digest(facts.names[move.model_id], move):
                yield Problem("history", subject, f"move {generation} was changed")
            held, previous = move.to_number, move.digest
        if (pointer.generation, pointer.number) != (generation, held):
            yield Problem("history", subject, "does not stand where its last move left it")
    for model_id, name in chains:
        yield Problem("history", f"{facts.names[model_id]}@{name}", "has moves, but is gone")


def _move_digest(model: str, move: Any) -> str:
    at = datetime.fromisoformat(move.at) if isinstance(move.at, str) else move.at.astimezone(UTC)
    return _hash_of_json(
        {
            "model": model,
            "pointer": move.pointer,
            "from": move.from_number,
            "to": move.to_number,
            "generation": move.generation,
            "kind": move.kind,
            "actor": move.actor,
            "reason": move.reason,
            "previous": move.previous_digest,
            "at": at.isoformat(timespec="microseconds"),
        }
    )


def _files(facts: _Facts) -> Iterator[Problem]:
    files = defaultdict(list)
    for file in facts.files:
        files[file.model_id, file.number].append(file)
    for version in facts.versions:
        subject = f"{facts.names[version.model_id]}/{version.number}"
        listed = []
        for file in sorted(files[version.model_id, version.number], key=lambda file: str(file.path)):
            content = facts.contents.get(file.content_id)
            if content is None or content.digest != file.digest:
                yield Problem("files", f"{subject}:{file.path}", "has no content with its digest")
                continue
            if content.damaged and version.purged_at is None:
                yield Problem(
                    "damaged", f"{subject}:{file.path}", "was found to have other bytes than it should"
                )
            listed.append({"path": file.path, "size": content.size, "digest": file.digest})
        if version.manifest_digest != _hash_of_json({"schema": "modelyard.manifest/1", "files": listed}):
            yield Problem("manifests", subject, "its files are not those that its digest stands for")


def _layouts(facts: _Facts) -> tuple[Layouts, list[Problem]]:
    """The segments of every content that is needed and right, and what is wrong with the others."""
    right, wrong = {}, []
    for number in facts.needed:
        content = facts.contents.get(number)
        if content is None:
            continue  # told by _files
        try:
            right[number] = _segments(content, facts)
        except (ValueError, KeyError, TypeError) as error:
            wrong.append(Problem("layouts", f"content {number}", str(error)))
            continue
        if {blob for blob, _, _ in right[number]} != facts.bound[number]:
            wrong.append(
                Problem("layouts", f"content {number}", "content_blobs names other blobs than the layout")
            )
    return right, wrong


def _segments(content: Any, facts: _Facts) -> list[list[int]]:
    layout = json.loads(content.layout) if isinstance(content.layout, str) else content.layout
    if set(layout) != {"layout", "segments"} or layout["layout"] != 1:
        raise ValueError("the layout is not of a form known here")
    segments: list[list[int]] = layout["segments"]
    for blob, offset, length in segments:
        if blob not in facts.blobs:
            raise ValueError(f"blob {blob} does not exist")
        if offset < 0 or length <= 0 or offset + length > facts.blobs[blob].size:
            raise ValueError(f"a segment is not within blob {blob}")
    if sum(length for _, _, length in segments) != content.size:
        raise ValueError("the segments do not add up to the size")
    return segments


def _trash(facts: _Facts) -> Iterator[Problem]:
    for number, blob in facts.blobs.items():
        in_trash = blob.key in facts.trash
        if blob.state == "expected" and not in_trash:
            yield Problem(
                "trash", f"blob {number}", "is expected, but its key is not in the trash: it would leak"
            )
        if blob.state != "expected" and in_trash:
            yield Problem("trash", f"blob {number}", f"is {blob.state}, and its key is in the trash")


def _objects(facts: _Facts, sizes: Mapping[str, int]) -> Iterator[Problem]:
    for number, content in facts.blobs_needed():
        blob, subject = facts.blobs[number], f"blob {number} (content {content})"
        if blob.state != "live":
            yield Problem("objects", subject, f"is needed, but {blob.state}")
        if blob.damaged:
            yield Problem("damaged", subject, "was found to have other bytes than it should")
        if blob.key not in sizes:
            yield Problem("objects", subject, "is not in the store")
        elif sizes[blob.key] != blob.size:
            yield Problem(
                "objects", subject, f"has {sizes[blob.key]} bytes in the store instead of {blob.size}"
            )


def _leaks(facts: _Facts, sizes: Mapping[str, int], database_url: str, store: BlobStore) -> Iterator[Problem]:
    known = facts.trash | {blob.key for blob in facts.blobs.values()}
    unknown = sorted(sizes.keys() - known)
    if not unknown:
        return
    with _snapshot(database_url) as rows:
        # One statement: between two, a key may leave the trash for a blob, and be seen in neither.
        now_known = {row.key for row in rows("SELECT key FROM blobs UNION SELECT key FROM trash")}
    for key in unknown:
        if key not in now_known and _exists(store, key):
            yield Problem(
                "leaks", key, f"{sizes[key]} bytes that no row knows: `sweep --orphans` removes them"
            )


def _exists(store: BlobStore, key: str) -> bool:
    try:
        store.open(key).close()
    except BlobNotFound:
        return False
    return True


def _bytes(facts: _Facts, layouts: Layouts, sizes: Mapping[str, int], store: BlobStore) -> Iterator[Problem]:
    for number, content in facts.blobs_needed():
        blob = facts.blobs[number]
        if blob.key in sizes and _hash_of(_read(store, blob.key, 0, None)) != blob.digest:
            yield Problem("bytes", f"blob {number} (content {content})", "does not have its digest")
    for number, segments in layouts.items():
        keys = {blob: facts.blobs[blob].key for blob, _, _ in segments}
        if not set(keys.values()) <= sizes.keys():
            continue  # told by _objects
        pieces = (
            piece for blob, start, length in segments for piece in _read(store, keys[blob], start, length)
        )
        if _hash_of(pieces) != facts.contents[number].digest:
            yield Problem("bytes", f"content {number}", "does not have its digest")


def _read(store: BlobStore, key: str, start: int, length: int | None) -> Iterator[bytes]:
    try:
        with store.open(key, offset=start, length=length) as stream:
            while piece := stream.read(PIECE):
                yield piece
    except BlobNotFound:
        return


def _hash_of(pieces: Iterable[bytes]) -> str:
    hasher = hashlib.sha256()
    for piece in pieces:
        hasher.update(piece)
    return "sha256:" + hasher.hexdigest()


def _hash_of_json(value: object) -> str:
    return _hash_of([json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()])


@contextmanager
def _snapshot(url: str) -> Iterator[Callable[[str], list[Any]]]:
    """Rows by SQL, all as of one moment, over a connection that cannot write."""
    parsed = sa.make_url(url)
    on_sqlite = parsed.get_backend_name() == "sqlite"
    engine = sa.create_engine(
        parsed if on_sqlite else parsed.set(drivername="postgresql+psycopg"), poolclass=sa.NullPool
    )
    level = "AUTOCOMMIT" if on_sqlite else "REPEATABLE READ"
    try:
        with engine.connect().execution_options(
            isolation_level=level, postgresql_readonly=True
        ) as connection:
            if on_sqlite:
                connection.exec_driver_sql("PRAGMA query_only = 1")
                connection.exec_driver_sql("BEGIN")
            yield lambda sql: list(connection.execute(sa.text(sql)))
    finally:
        engine.dispose()

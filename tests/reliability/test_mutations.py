"""A checker that cannot fail proves nothing: the protocol is broken on purpose, and each check must notice.

check(world)                    passes
check(world), protocol broken   raises Violation
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from registry import failpoints, offers, publish, seal, sweep, unneeded, uploads
from registry.database import utc_now
from registry.hashing import HashingReader
from registry.seal import make_live
from registry.tables import BlobRow, TrashRow
from tests.reliability.caller import StartOver, Violation
from tests.reliability.world import World, opened
from tests.servers.app import digest_of, listing

FILES = {"m": b"needed"}
Check = Callable[[World], None]


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(database_url, tmp_path, monkeypatch) as world:
        yield world


# ---------------------------------------------------------------- checks


def a_reused_content_is_still_needed_when_it_is_committed(world: World) -> None:
    """Its only version is purged between the commit's first look and its transaction."""
    caller = world.caller
    caller.publish("m", FILES)
    upload = caller.begin("m", FILES)

    def purge() -> None:
        caller.delete("m", 1)
        world.sweep()

    try:
        with _meanwhile(publish, "_verified", purge):
            caller.commit("m", upload["id"], listing(FILES))
    except StartOver:
        caller.publish("m", FILES)
    caller.download("m", 2, FILES)
    world.require_sound()


def a_slow_delete_hits_no_later_upload(world: World) -> None:
    """The same bytes are published again while the sweep deletes their first copy."""
    world.caller.publish("m", FILES)
    world.caller.delete("m", 1)
    with _at("sweep.before_delete", lambda: world.caller.publish("m", FILES)):
        world.sweep()
    world.sweep()
    world.caller.download("m", 2, FILES)
    world.require_sound()


def what_an_upload_need_not_send_stays_until_it_ends(world: World) -> None:
    world.caller.publish("m", FILES)
    upload = world.caller.begin("m", FILES | {"n": b"new"})
    _require([need["digest"] for need in upload["needs"]] == [digest_of(b"new")], "asked for what is there")
    world.caller.delete("m", 1)
    for _ in range(2):
        world.sweep()
    world.caller.send(upload["needs"], [b"new"])
    try:
        world.caller.commit("m", upload["id"], listing(FILES | {"n": b"new"}))
    except StartOver as error:
        raise Violation("bytes that were promised to an upload are gone") from error
    world.caller.download("m", 2, FILES)
    world.require_sound()


def nothing_is_visible_before_its_bytes_are_there(world: World) -> None:
    upload = world.caller.begin("m", FILES)
    _require_refused(world, upload["id"], listing(FILES))
    world.require_sound()


def a_key_is_sealed_or_deleted_and_never_both(world: World) -> None:
    """Bytes arrive at the announced key, and are sealed, just when the sweep deletes it."""
    upload = world.caller.begin("m", FILES)
    with world.database.read() as session:
        blob = session.scalars(sa.select(BlobRow)).one()
    world.store.put(blob.key, io.BytesIO(b"needed"), size=6)  # as a presigned PUT does
    with world.database.write() as session:
        session.execute(sa.update(TrashRow).values(not_before=sa.select(utc_now()).scalar_subquery()))
    with _at("sweep.after_delete", lambda: make_live(world.database, {blob.id: blob.key})):
        world.sweep()
    try:
        world.caller.commit("m", upload["id"], listing(FILES))
    except StartOver:
        world.caller.publish("m", FILES)
    world.caller.download("m", 1, FILES)
    world.require_nothing_leaked()


def other_bytes_than_announced_are_refused(world: World) -> None:
    upload = world.caller.begin("m", FILES)
    answer = world.api.put(upload["needs"][0]["url"], content=b"damage")
    _require(answer.status_code == 400, f"taken: {answer.status_code}")
    _require_refused(world, upload["id"], listing(FILES))


def sealed_bytes_are_not_in_the_trash(world: World) -> None:
    world.caller.publish("m", FILES)
    world.require_nothing_leaked()
    world.caller.download("m", 1, FILES)


def files_are_what_their_segments_add_up_to(world: World) -> None:
    """The pack is what was announced, but not the file that is said to be in it."""
    pack = b"needed"
    upload = world.caller.begin("m", FILES, packed=True)
    blob = {"digest": digest_of(pack), "size": len(pack)}
    needs = world.caller.call("POST", f"/uploads/{upload['id']}/blobs", json={"blobs": [blob]}).json()[
        "needs"
    ]
    world.caller.send(needs, [pack])
    claimed = [{"path": "m", "size": 6, "digest": digest_of(b"deeden"), "segments": [[0, 0, 6]]}]
    _require_refused(world, upload["id"], claimed, blobs=[blob["digest"]])
    world.require_sound()


def a_repeated_commit_is_the_same_version(world: World) -> None:
    upload = world.caller.begin("m", FILES)
    world.caller.send(upload["needs"], [b"needed"])
    numbers = [world.caller.commit("m", upload["id"], listing(FILES)) for _ in range(2)]
    _require(numbers == [1, 1], f"became {numbers}")


def one_idempotency_key_is_one_upload(world: World) -> None:
    request: dict[str, Any] = {"json": {"files": listing(FILES)}, "headers": {"Idempotency-Key": "k"}}
    ids = {world.caller.call("POST", "/models/m/uploads", **request).json()["id"] for _ in range(2)}
    _require(len(ids) == 1, f"became {len(ids)} uploads")


def _require(truth: bool, else_: str) -> None:
    if not truth:
        raise Violation(else_)


def _require_refused(world: World, upload: str, files: list[dict[str, Any]], **more: Any) -> None:
    try:
        number = world.caller.commit("m", upload, files, **more)
    except StartOver:
        return
    raise Violation(f"became version {number}")


@contextmanager
def _meanwhile(module: Any, name: str, action: Callable[[], object]) -> Iterator[None]:
    """Run `action` once, before a function is called."""
    with pytest.MonkeyPatch.context() as patch:
        original = getattr(module, name)

        def first(*given: Any, **named: Any) -> Any:
            patch.undo()
            action()
            return original(*given, **named)

        patch.setattr(module, name, first)
        yield


@contextmanager
def _at(name: str, action: Callable[[], object]) -> Iterator[None]:
    """Run `action` once, when a failpoint is reached."""
    with pytest.MonkeyPatch.context() as patch:

        def once() -> None:
            patch.undo()
            action()

        patch.setitem(failpoints.ACTIONS, name, once)
        yield


# ---------------------------------------------------------------- broken protocols


@dataclass(frozen=True, slots=True)
class Mutation:
    """A protocol that somebody could have written: `name` of `module` replaced, and the check that notices."""

    check: Check
    module: Any
    name: str
    broken: Callable[..., Any]


def _seal_blindly(database: Any, _store: Any, blobs: Any) -> set[int]:
    return set(make_live(database, {blob.id: blob.key for blob in blobs}))


def _delete_then_claim(self: Any) -> tuple[int, int]:
    with self._database.read() as session:
        keys = session.scalars(unneeded.due_trash()).all()
    gone = self._delete(keys)
    failpoints.failpoint("sweep.after_delete")
    with self._database.write() as session:
        session.execute(sa.delete(TrashRow).where(TrashRow.key.in_(gone)))
    return len(gone), 0


def _make_live_and_leave_in_trash(database: Any, keys: Any) -> dict[int, str]:
    with database.write() as session:
        for blob in session.scalars(sa.select(BlobRow).where(BlobRow.id.in_(keys))):
            blob.state, blob.key = "live", keys[blob.id]
    return dict(keys)


class _Trusting(str):
    """A digest that is always the one that was announced."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, _other: object) -> bool:
        return True

    def __ne__(self, _other: object) -> bool:
        return False


def _believe(_store: Any, _keys: Any, placed: Any, _bytes: int) -> Any:
    return [replace(content, verified=True) for content in placed]


def _without_key(session: Any, model: str, offer: Any, actor: str, limits: Any, _key: str) -> Any:
    return _open(session, model, offer, actor, limits, None)


_open = uploads._open

MUTATIONS = {
    "no look at what is live when committing": Mutation(
        a_reused_content_is_still_needed_when_it_is_committed, publish, "_require_live", lambda *_: None
    ),
    "one key for the same bytes": Mutation(
        a_slow_delete_hits_no_later_upload, uploads, "new_key", lambda digest: f"sha256/00/{digest[7:]}/same"
    ),
    "no leases": Mutation(what_an_upload_need_not_send_stays_until_it_ends, offers, "lease", lambda *_: None),
    "commit before the bytes are there": Mutation(
        nothing_is_visible_before_its_bytes_are_there, seal, "seal", _seal_blindly
    ),
    "delete first, claim then": Mutation(
        a_key_is_sealed_or_deleted_and_never_both, sweep._Sweep, "_empty", _delete_then_claim
    ),
    "the client's digest is believed": Mutation(
        other_bytes_than_announced_are_refused, HashingReader, "digest", lambda _: _Trusting()
    ),
    "sealed keys stay in the trash": Mutation(
        sealed_bytes_are_not_in_the_trash, uploads, "make_live", _make_live_and_leave_in_trash
    ),
    "segments are believed": Mutation(
        files_are_what_their_segments_add_up_to, publish, "_verified", _believe
    ),
    "nobody remembers what was committed": Mutation(
        a_repeated_commit_is_the_same_version, publish, "_committed", lambda *_: None
    ),
    "the idempotency key is ignored": Mutation(
        one_idempotency_key_is_one_upload, uploads, "_open", _without_key
    ),
}


@pytest.mark.parametrize("check", [m.check for m in MUTATIONS.values()], ids=lambda check: check.__name__)
def test_the_protocol_passes(world: World, check: Check) -> None:
    check(world)


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS)
def test_a_broken_protocol_is_caught(
    world: World, mutation: Mutation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutation.module, mutation.name, mutation.broken)
    with pytest.raises(Violation):
        mutation.check(world)

"""Verifying after the commit: what waits is verified by exactly one registry, and by another if that one dies."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from registry import verify
from registry.tables import ContentRow
from tests.reliability.world import LARGE, World, opened

HOUR = 3600


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Nothing is verified but on demand, and a claim lasts an hour."""
    with opened(database_url, tmp_path, monkeypatch) as world:
        monkeypatch.setattr(verify, "CLAIM_S", HOUR)
        yield world


def publish(world: World, *, more: dict[str, bytes] | None = None) -> None:
    files = {"large": bytes(LARGE), **(more or {})}
    assert world.caller.publish("fraud", files, packed=True) == 1


def verified(world: World) -> bool:
    return bool(world.caller.call("GET", "/models/fraud/versions/1").json()["verified"])


def verify_one(world: World) -> bool:
    return verify.verify_next(world.database, world.store)


def claimed_until(world: World) -> datetime:
    with world.database.read() as session:
        return session.scalars(sa.select(ContentRow.claimed_until)).one()


def set_claim(world: World, until: datetime) -> None:
    with world.database.write() as session:
        session.execute(sa.update(ContentRow).values(claimed_until=until))


def test_what_is_large_is_verified_after_the_commit(world: World) -> None:
    publish(world)
    assert not verified(world)
    assert verify_one(world)
    assert verified(world)
    assert not verify_one(world)


def test_a_file_without_bytes_does_not_keep_its_version_from_being_verified(world: World) -> None:
    """It has no blob that anybody could read."""
    publish(world, more={"__init__.py": b""})
    world.verify()
    assert verified(world)


def test_what_one_registry_reads_is_left_alone_by_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(world)
    examine, others = verify._examine, []

    def meanwhile(*given: object) -> object:
        others.append(verify_one(world))
        return examine(*given)  # type: ignore[arg-type]  # whatever it was called with

    monkeypatch.setattr(verify, "_examine", meanwhile)
    assert verify_one(world)
    assert others == [False]
    assert verified(world)


def test_what_a_dead_registry_had_claimed_is_another_ones_when_the_claim_lapses(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(world)
    with monkeypatch.context() as dying:
        dying.setattr(verify, "_examine", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        dying.setattr(verify, "_let_go", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            verify_one(world)
    assert not verify_one(world)
    set_claim(world, datetime.now(UTC) - timedelta(seconds=1))
    assert verify_one(world)
    assert verified(world)


def test_a_claim_is_renewed_as_long_as_its_holder_reads(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(world)
    clock = itertools.count(step=HOUR)  # each look at it finds an hour gone
    monkeypatch.setattr(verify, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    read, renewed = verify.PackReader.read, []

    def slowly(reader: verify.PackReader, *given: object) -> Iterator[bytes | memoryview]:
        set_claim(world, datetime.now(UTC) - timedelta(seconds=1))
        yield from read(reader, *given)  # type: ignore[arg-type]  # whatever it was called with
        renewed.append(claimed_until(world) > datetime.now(UTC) + timedelta(seconds=HOUR / 2))

    monkeypatch.setattr(verify.PackReader, "read", slowly)
    assert verify_one(world)
    assert renewed == [True]
    assert verified(world)

"""Processes, store and connections are killed at random while many publish: the short form of soak.py."""

from pathlib import Path

from tests.reliability.crashes import Plan, RcloneStore, crash
from tests.servers.postgres import Postgres


def test_nothing_acknowledged_is_lost_on_sqlite_and_disk(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    outcome = crash(
        Plan(), tmp_path, database_url=f"sqlite:///{tmp_path / 'registry.db'}", storage_url=blobs.as_uri()
    )
    assert outcome.reads > 0
    assert list((blobs / "tmp").iterdir()) == []


def test_nothing_acknowledged_is_lost_on_postgresql_and_s3(
    tmp_path: Path, postgres: Postgres, s3_credentials: tuple[str, str]
) -> None:
    store = RcloneStore(tmp_path, *s3_credentials)
    outcome = crash(
        Plan(), tmp_path, database_url=postgres.new_database(), storage_url=store.url, store=store
    )
    assert outcome.reads > 0

"""Slowing down those who guess passwords, on all registry processes together.

A bucket for each name and one for each address: a failure pours in a drop, time drains it, and whoever finds a bucket full
waits for the next drop to drain. Nobody is ever locked out for longer than that. An attempt is counted before the password
is looked at, so that a thousand at once are counted, too; a success takes its own drop back, and no other.

A stranger who keeps the bucket of a name full must not keep out whose name it is: from an address where a name has logged
in before, the name has a bucket of its own.
"""

import hashlib
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from registry.database import WriteSession, utc_now
from registry.errors import TooManyAttempts
from registry.login_tables import AttemptRow

REMEMBERED = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Limit:
    """So many at once, and one more each `every`."""

    burst: int
    every: timedelta


PER_NAME = Limit(10, timedelta(minutes=1))
PER_ADDRESS = Limit(50, timedelta(seconds=10))
BEGINNINGS = Limit(60, timedelta(seconds=1))
"""Of logins in a browser, from one address: each keeps a row for some minutes."""


Counted = Mapping[str, Limit]


def count_attempt(session: WriteSession, name: str, address: str) -> Counted:
    """Count an attempt as failed before it is made. Raises TooManyAttempts; then it is not counted, nor to be made."""
    network = _key("address", _network(address))
    return _pour(session, {_whose(session, name, address): PER_NAME, network: PER_ADDRESS})


def count_beginning(session: WriteSession, address: str) -> None:
    """Count the begin of a login in a browser. Raises TooManyAttempts."""
    _pour(session, {_key("begin", _network(address)): BEGINNINGS})


def forgive(session: WriteSession, counted: Counted, name: str, address: str) -> None:
    """What was counted was no failure."""
    for key in sorted(counted):
        row = session.get(AttemptRow, key, with_for_update=True)
        if row is not None:
            row.empty_at -= counted[key].every
    now = session.scalars(sa.select(utc_now())).one()
    known = {"key": _known(name, address), "empty_at": now, "expires_at": now + REMEMBERED}
    session.execute(_upsert(session, [known], "expires_at"))


def _pour(session: WriteSession, limits: Counted) -> Counted:
    now = session.scalars(sa.select(utc_now())).one()
    # Always in the same order: two attempts that share both buckets must not wait for each other.
    rows = [{"key": key, "empty_at": now, "expires_at": now} for key in sorted(limits)]
    poured = _upsert(session, rows, "key").returning(
        AttemptRow.key, AttemptRow.empty_at, AttemptRow.expires_at
    )
    for key, empty_at, expires_at in session.execute(poured).all():
        limit = limits[key]
        fuller = max(empty_at, now) + limit.every
        excess = fuller - now - limit.burst * limit.every
        if excess > timedelta(0):
            seconds = ceil(excess.total_seconds())
            raise TooManyAttempts(
                f"Too many attempts. Try again in {seconds} seconds.", retry_after_s=seconds
            )
        bucket = sa.update(AttemptRow).where(AttemptRow.key == key)
        session.execute(bucket.values(empty_at=fuller, expires_at=max(fuller, expires_at)))
    return limits


def _upsert(session: WriteSession, rows: Sequence[dict[str, Any]], renewed: str) -> Any:
    """Insert rows; of those that are there, renew one column and, whichever it is, lock the row."""
    on_sqlite = session.get_bind().dialect.name == "sqlite"
    insert = sqlite.insert(AttemptRow) if on_sqlite else postgresql.insert(AttemptRow)
    insert = insert.values(list(rows))
    return insert.on_conflict_do_update(
        index_elements=["key"], set_={renewed: getattr(insert.excluded, renewed)}
    )


def _whose(session: WriteSession, name: str, address: str) -> str:
    known = _known(name, address)
    until: datetime | None = session.scalar(
        sa.select(AttemptRow.expires_at).where(AttemptRow.key == known, AttemptRow.expires_at > utc_now())
    )
    return _key("name", name) if until is None else known


def _known(name: str, address: str) -> str:
    return _key("known", name, _network(address))


def _network(address: str) -> str:
    """The address, or of IPv6 the network that one customer has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="replace")).hexdigest()

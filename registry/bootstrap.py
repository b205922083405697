"""What a registry needs before it lets anybody in: the secret key, and on this machine's own address a token for its user.

MODELYARD_HOME/secret.key     made on first use, unless the key is a setting
MODELYARD_HOME/local.json     url and token of the registry on this machine, for the SDK of the same user
"""

import hashlib
import hmac
import json
import logging
import os
import secrets
from pathlib import Path

import sqlalchemy as sa

from registry import tokens
from registry.access_tables import InstanceRow, PrincipalRow, TokenRow
from registry.database import Database, insert_or_ignore, utc_now
from registry.errors import DatabaseUnavailable
from registry.settings import Settings, is_loopback

log = logging.getLogger("modelyard.registry")

LOCAL = "local"
"""The name of the user of this machine."""


class NotConfigured(Exception):
    """The registry must not start like this; the message says what to do."""


def let_in(settings: Settings, database: Database, key: bytes) -> None:
    """Make sure that somebody can come in, and nobody else. Raises NotConfigured."""
    try:
        require_same_key(database, key)
        if settings.token is None and is_loopback(settings.host):
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            local_token(settings, database, key, f"http://{host}:{settings.port}")
        elif settings.token is None:
            require_somebody(database)
    except (DatabaseUnavailable, sa.exc.DBAPIError) as error:
        # Down, or not migrated: nothing is answered but /readyz, which says so.
        log.warning("nobody can be recognised yet: %s", error.__class__.__name__)


def require_somebody(database: Database) -> None:
    """Raise NotConfigured when nobody could give anybody rights."""
    with database.read() as session:
        if session.scalar(sa.select(PrincipalRow.id).where(PrincipalRow.administrator).limit(1)) is None:
            raise NotConfigured(
                "Nobody could log in: this registry has no administrator yet. Set MODELYARD_REGISTRY_TOKEN to a token of "
                "your choice (16 characters or more), and use it to make the first one."
            )


def secret_key(settings: Settings, *, make: bool = False) -> bytes:
    """The key under which tokens are recognised; `make` one if there is none yet. Raises NotConfigured."""
    if settings.secret_key is not None:
        return hashlib.sha256(settings.secret_key.get_secret_value().encode()).digest()
    path = settings.home / "secret.key"
    try:
        if not path.exists() and not make:
            raise NotConfigured(
                "There is no secret key here: set MODELYARD_REGISTRY_SECRET_KEY to the registry's."
            )
        if not path.exists():
            _write_once(path, secrets.token_hex(32) + "\n")
        text = path.read_text(encoding="ascii").strip()
        if len(text) < 32:
            raise NotConfigured(f"{path.name} holds no key: it needs 32 characters or more.")
    except (OSError, UnicodeDecodeError) as error:
        raise NotConfigured(f"The secret key cannot be read or made: {error}.") from error
    return hashlib.sha256(text.encode()).digest()


def require_same_key(database: Database, key: bytes) -> None:
    """Raise NotConfigured when the tokens in this database were made with another key."""
    fingerprint = hmac.new(key, b"modelyard key fingerprint", hashlib.sha256).hexdigest()
    with database.write() as session:
        insert_or_ignore(session, InstanceRow, {"id": 1, "key_fingerprint": fingerprint})
        known = session.scalars(sa.select(InstanceRow.key_fingerprint)).one()
    if known != fingerprint:
        raise NotConfigured(
            "This database was used with another secret key, under which no token would be recognised. Set "
            "MODELYARD_REGISTRY_SECRET_KEY to that key; all registries of one database need the same."
        )


def local_token(settings: Settings, database: Database, key: bytes, url: str) -> Path:
    """Let the user of this machine in: an administrator's token in local.json, unless a good one is there. Returns its path."""
    path = settings.home / "local.json"
    if not _is_good(database, key, path, url):
        with database.write() as session:
            row = {"name": LOCAL, "kind": "person", "administrator": True, "created_by": "modelyard"}
            insert_or_ignore(session, PrincipalRow, row)
            owner = session.scalars(sa.select(PrincipalRow).where(PrincipalRow.name == LOCAL)).one()
            name = f"local.json for {url}"
            _revoke(session, owner, name)
            wanted = tokens.Wanted(name=name, lifetime_s=None)
            token, _ = tokens.issue(session, key, owner, wanted, created_by="modelyard")
        _write(path, json.dumps({"url": url, "token": token}, indent=2) + "\n")
    return path


def _is_good(database: Database, key: bytes, path: Path, url: str) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parsed = tokens.parse(content["token"]) if content["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if parsed is None:
        return False
    with database.read() as session:
        row = session.get(TokenRow, parsed[0])
        return row is not None and row.revoked_at is None and row.digest == tokens.digest(key, *parsed)


def _revoke(session: "sa.orm.Session", owner: PrincipalRow, name: str) -> None:
    former = sa.update(TokenRow).where(
        TokenRow.principal_id == owner.id, TokenRow.name == name, TokenRow.revoked_at.is_(None)
    )
    session.execute(former.values(revoked_at=utc_now(), revoked_by="modelyard"))


def _write_once(path: Path, content: str) -> None:
    """Several registries may start at once: the first to link its file wins."""
    temporary = _temporary(path, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _write(path: Path, content: str) -> None:
    _temporary(path, content).replace(path)


def _temporary(path: Path, content: str) -> Path:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with os.fdopen(
        os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
    ) as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return temporary

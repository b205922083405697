"""A CI job's identity token becomes an API token, once.

    job ──identity token, signed by its CI──> verified ──claims──> trusted publisher ──> its robot's token, 15 minutes

No secret of this registry is stored anywhere: what a job has is worth nothing to others, and to itself for minutes only.
"""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from registry import accounts, audit, trusted
from registry.access import Caller
from registry.accounts import Issued
from registry.database import Database, WriteSession
from registry.errors import InvalidToken
from registry.login_tables import SpentTokenRow
from registry.oidc import LEEWAY_S, Identity, Providers
from registry.tokens import Wanted

LIFETIME_S = 15 * 60
_MARGIN = timedelta(hours=1)
"""Between the registry's clock, by which tokens expire, and the database's, by which rows are removed."""
_LONGEST_NAME = 128


def exchange(
    database: Database,
    key: bytes,
    providers: Providers,
    stranger: Caller,
    token: str,
    principal: str | None = None,
) -> Issued:
    """A token of the robot whom this identity token proves to be: `principal`, if given.

    Raises InvalidToken, IssuerUnavailable, NoTrustedPublisher, AmbiguousPublisher or Unauthorized.
    """
    identity = providers.exchanged(token)
    with database.write() as session:
        robot, workspace_id = trusted.robot_of(session, stranger.workspace, identity, principal)
        _spend(session, identity)
        name = identity.subject[:_LONGEST_NAME]
        wanted = Wanted(name=name, workspace_id=workspace_id, lifetime_s=LIFETIME_S)
        issued = accounts.issue(session, key, robot, wanted)
        said = {"issuer": identity.issuer, "subject": identity.subject}
        actor = replace(stranger, name=robot.name)
        audit.record(session, actor, "token.exchanged", f"tokens/{issued.token_id}", said)
    return issued


def _spend(session: WriteSession, identity: Identity) -> None:
    """Raise InvalidToken if it was exchanged before."""
    # Not the signature: the same claims can have many (ECDSA's can be changed by anybody).
    which = identity.claims.get("jti") or identity.signed
    digest = hashlib.sha256(f"{identity.issuer}\0{which}".encode(errors="surrogatepass")).hexdigest()
    gone = datetime.fromtimestamp(identity.expires_at + LEEWAY_S, UTC) + _MARGIN
    try:
        session.execute(sa.insert(SpentTokenRow).values(token=digest, expires_at=gone))
    except sa.exc.IntegrityError as error:
        raise InvalidToken("it was exchanged before") from error

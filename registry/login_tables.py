"""The tables of logging in. All but the trusted publishers are short-lived: trim.py removes what is over.

    login_attempts        who has failed how often of late
    browser_logins ──> login_codes        a login under way in a browser, then what it ends with
    trusted_publishers ──> spent_tokens   whose CI jobs are whom; and the identity tokens that were exchanged already

Of what would let somebody in there are digests, and of names, too: what people type as one is sometimes their password.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from registry.access_tables import PrincipalRow
from registry.database import utc_now
from registry.tables import Base, BigInteger, WorkspaceRow

Digest = sa.String(64)


class AttemptRow(Base):
    """A bucket that fails are poured into and that drains with time; it is empty at `empty_at`."""

    __tablename__ = "login_attempts"

    key: Mapped[str] = mapped_column(Digest, primary_key=True)
    empty_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class BrowserLoginRow(Base):
    """Between two redirects: what the identity provider must answer to, and where the browser goes then."""

    __tablename__ = "browser_logins"

    state: Mapped[str] = mapped_column(Digest, primary_key=True)
    browser: Mapped[str] = mapped_column(Digest)
    issuer: Mapped[str] = mapped_column(sa.String(32))
    nonce: Mapped[str] = mapped_column(sa.String(64))
    verifier: Mapped[str] = mapped_column(sa.String(64))
    redirect_uri: Mapped[str] = mapped_column(sa.String(64))
    client_state: Mapped[str] = mapped_column(sa.String(128))
    challenge: Mapped[str] = mapped_column(sa.String(43))
    expires_at: Mapped[datetime] = mapped_column(index=True)


class LoginCodeRow(Base):
    """Good for one session token, for whoever began the login."""

    __tablename__ = "login_codes"

    code: Mapped[str] = mapped_column(Digest, primary_key=True)
    principal_id: Mapped[int] = mapped_column(sa.ForeignKey(PrincipalRow.id))
    issuer: Mapped[str] = mapped_column(sa.String(32))
    redirect_uri: Mapped[str] = mapped_column(sa.String(64))
    challenge: Mapped[str] = mapped_column(sa.String(43))
    expires_at: Mapped[datetime] = mapped_column(index=True)


class TrustedPublisherRow(Base):
    """Whoever has a token of this issuer with these claims is this robot, in this workspace."""

    __tablename__ = "trusted_publishers"
    __table_args__ = (sa.CheckConstraint("CAST(claims AS TEXT) <> '{}'", "claims"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    workspace_id: Mapped[int] = mapped_column(sa.ForeignKey(WorkspaceRow.id), index=True)
    issuer: Mapped[str] = mapped_column(sa.String(512))
    claims: Mapped[dict[str, Any]]
    principal_id: Mapped[int] = mapped_column(sa.ForeignKey(PrincipalRow.id))
    created_at: Mapped[datetime] = mapped_column(server_default=utc_now())
    created_by: Mapped[str] = mapped_column(sa.String(128))


class SpentTokenRow(Base):
    """An identity token that was exchanged, for as long as it would be valid."""

    __tablename__ = "spent_tokens"

    token: Mapped[str] = mapped_column(Digest, primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(index=True)

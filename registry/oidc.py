"""Who a JSON Web Token (RFC 7519) speaks of, when it was signed by an identity provider that this registry knows.

    token ──size, shape──> header: algorithm, key id ──> the issuer's key ──signature──> claims ──rules──> Identity

Of the header nothing is believed but which of the issuer's own keys to try: not a key or address that it brings along.
Extensions are not understood, so none is accepted. An identity is issuer and subject together; a subject alone is nobody.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt

from registry.errors import InvalidToken, IssuerNotFound
from registry.oidc_jwks import ALGORITHMS
from registry.oidc_keys import Provider
from registry.settings import Issuer

MAX_TOKEN = 16 * 1024
LEEWAY_S = 30
MAX_LIFETIME_S = 24 * 3600
MAX_SUBJECT = 255
"""As OpenID Connect Core 1.0 has it, section 2."""

_REQUIRED = ("iss", "sub", "aud", "exp", "iat")
_WHY: Mapping[type[jwt.PyJWTError], str] = {
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidAudienceError: "it is meant for somebody else",
    jwt.InvalidIssuerError: "its issuer is another",
    jwt.InvalidSignatureError: "its signature is wrong",
    jwt.MissingRequiredClaimError: "it lacks a claim (iss, sub, aud, exp and iat are needed)",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a token speaks of. `signed` is what its signature covers; `expires_at` is in seconds since 1970."""

    issuer: str
    subject: str
    expires_at: int
    claims: Mapping[str, Any] = field(repr=False)
    signed: str = field(repr=False)


class Providers:
    """The identity providers that this registry knows."""

    def __init__(self, issuers: Iterable[Issuer], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._all = [Provider(issuer, clock=clock) for issuer in issuers]

    def __iter__(self) -> Iterator[Provider]:
        return iter(self._all)

    def named(self, name: str) -> Provider:
        """The one of this name, if people can log in with it. Raises IssuerNotFound."""
        for provider in self._all:
            if provider.issuer.name == name and provider.issuer.client_id is not None:
                return provider
        raise IssuerNotFound

    def exchanged(self, token: str) -> Identity:
        """The identity in a token that was made to be exchanged here. Raises InvalidToken or IssuerUnavailable."""
        said = _unverified(token)["payload"].get("iss")
        for provider in self._all:
            if provider.issuer.issuer == said and provider.issuer.audience is not None:
                return verify(token, provider, provider.issuer.audience)
        raise InvalidToken("its issuer is none of those whose tokens are exchanged here")


def verify(token: str, provider: Provider, audience: str) -> Identity:
    """The identity in a token of this provider for this audience. Raises InvalidToken or IssuerUnavailable."""
    header = _unverified(token)["header"]
    algorithm = _checked_algorithm(header)
    try:
        claims = jwt.decode(
            token,
            key=provider.key(header.get("kid"), algorithm),
            algorithms=[algorithm],
            issuer=provider.issuer.issuer,
            audience=audience,
            leeway=LEEWAY_S,
            options={"require": list(_REQUIRED), "enforce_minimum_key_length": True},
        )
    except jwt.PyJWTError as error:
        raise InvalidToken(_why(error)) from error
    _check_claims(claims, audience)
    return Identity(
        issuer=claims["iss"],
        subject=claims["sub"],
        expires_at=int(claims["exp"]),
        claims=claims,
        signed=token.rpartition(".")[0],
    )


def _unverified(token: str) -> dict[str, Any]:
    if len(token) > MAX_TOKEN:
        raise InvalidToken("it is too long")
    if not token.isascii():
        raise InvalidToken("it is not a JSON Web Token")
    try:
        return jwt.decode_complete(token, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise InvalidToken("it is not a JSON Web Token") from error


def _checked_algorithm(header: Mapping[str, Any]) -> str:
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise InvalidToken(f"its algorithm is not one of {', '.join(sorted(ALGORITHMS))}")
    if "crit" in header or "b64" in header:
        raise InvalidToken("it needs an extension that is not understood here")
    # Logout tokens and access tokens are signed with the same keys.
    if not isinstance(header.get("typ", "JWT"), str) or header.get("typ", "JWT").upper() != "JWT":
        raise InvalidToken("it is not an identity token")
    return algorithm


def _check_claims(claims: Mapping[str, Any], audience: str) -> None:
    # Whoever else it is meant for could present it here.
    if claims["aud"] not in (audience, [audience]):
        raise InvalidToken("it is meant for somebody else, too")
    if int(claims["exp"]) > time.time() + MAX_LIFETIME_S + LEEWAY_S:
        raise InvalidToken(f"it is valid for longer than {MAX_LIFETIME_S // 3600} hours")
    subject = claims["sub"]
    if not 1 <= len(subject) <= MAX_SUBJECT or not subject.isprintable():
        raise InvalidToken("its subject cannot be a name")


def _why(error: jwt.PyJWTError) -> str:
    return next((why for kind, why in _WHY.items() if isinstance(error, kind)), "it cannot be verified")

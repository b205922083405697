"""Who is calling. For now one bearer token opens everything; without one, the registry answers this machine only."""

import hmac
from dataclasses import dataclass

from registry.errors import Unauthorized


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf something is done; `name` goes into history."""

    name: str


def authenticate(authorization: str | None, token: str | None) -> Caller:
    """The caller that an Authorization header stands for. Raises Unauthorized."""
    if token is None:
        return Caller("local")
    scheme, _, given = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise Unauthorized(
            "This registry needs a token. Send it as `Authorization: Bearer …`, or `modelyard login`."
        )
    return Caller("token")

"""The keys of an identity provider that signatures are checked with, out of a JSON Web Key Set (RFC 7517).

Each key is for certain algorithms, by its type and by what it says of itself; a token cannot choose another. Keys for
encryption, symmetric ones, and what cannot be understood are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

MAX_KEYS = 64
_MAX_MEMBER = 2048
"""Characters of one number of a key; RSA with 8,192 bits has 1,366."""

# What each type of key can have signed, and which members of it are public: a key may hold anything else.
_KINDS: Mapping[tuple[object, object], tuple[tuple[str, ...], tuple[str, ...]]] = {
    ("RSA", None): (("RS256", "PS256"), ("kty", "n", "e")),
    ("EC", "P-256"): (("ES256",), ("kty", "crv", "x", "y")),
    ("OKP", "Ed25519"): (("EdDSA",), ("kty", "crv", "x")),
}
ALGORITHMS = frozenset(algorithm for algorithms, _ in _KINDS.values() for algorithm in algorithms)


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, for one algorithm."""

    kid: str | None
    algorithm: str
    jwk: jwt.PyJWK


def usable_keys(jwks: object) -> tuple[Key, ...]:
    """The public keys for signatures, out of whatever was received; others are left out."""
    if not isinstance(jwks, list):
        return ()
    return tuple(key for jwk in jwks[:MAX_KEYS] if isinstance(jwk, dict) for key in _keys_of(jwk))


def _keys_of(jwk: Mapping[str, Any]) -> tuple[Key, ...]:
    kid, use, operations = jwk.get("kid"), jwk.get("use", "sig"), jwk.get("key_ops", ["verify"])
    if not (kid is None or isinstance(kid, str)) or use != "sig":
        return ()
    if not isinstance(operations, list) or "verify" not in operations:
        return ()
    kind = jwk.get("kty"), jwk.get("crv")
    algorithms, members = _KINDS.get(kind, ((), ())) if all(_is_text(each) for each in kind) else ((), ())
    public = {name: jwk.get(name) for name in members}
    if not all(isinstance(each, str) and len(each) <= _MAX_MEMBER for each in public.values()):
        return ()
    return tuple(
        key
        for algorithm in algorithms
        if jwk.get("alg", algorithm) == algorithm and (key := _key(kid, algorithm, public)) is not None
    )


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _key(kid: str | None, algorithm: str, public: Mapping[str, Any]) -> Key | None:
    try:
        return Key(kid, algorithm, jwt.PyJWK(dict(public), algorithm))
    except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        return None

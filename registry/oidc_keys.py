"""What is known of an identity provider: where its pages are, and the keys that it signs with.

    nothing known ──first token──> asked ──> known ──an hour──> asked again ──no answer──> the former keys, for a day
                                                └──unknown key id──> asked again, at most once a minute

Keys that could be used are kept until others take their place; an answer that holds none changes nothing. While nothing is
known, no token is accepted.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from registry import oidc_fetch
from registry.errors import InvalidToken, IssuerUnavailable
from registry.oidc_fetch import FetchFailed
from registry.oidc_jwks import Key, usable_keys
from registry.settings import Issuer, is_safe_url

log = logging.getLogger("modelyard.registry")

FRESH_S = 3600.0
USABLE_S = 24 * 3600.0
"""A provider that takes a key back must be heard within this time."""
PAUSE_S = 10.0
"""After it did not answer: each attempt holds a thread for as long as it takes."""
REFETCH_S = 60.0


@dataclass(frozen=True, slots=True)
class Known:
    """What a provider said, at a time of the monotonic clock."""

    metadata: Mapping[str, Any]
    keys: tuple[Key, ...]
    at: float


@dataclass(frozen=True, slots=True)
class _Failure:
    why: str
    at: float


class Provider:
    """An identity provider; safe to use from several threads. `clock` counts seconds."""

    def __init__(self, issuer: Issuer, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.issuer = issuer
        self._clock = clock
        self._known: Known | None = None
        self._failure: _Failure | None = None
        self._refetched = -REFETCH_S
        self._asking = threading.Lock()

    def metadata(self) -> Mapping[str, Any]:
        """Its discovery document. Raises IssuerUnavailable."""
        return self._current().metadata

    def endpoint(self, name: str) -> str:
        """An address from the discovery document. Raises IssuerUnavailable."""
        try:
            return self._endpoint(self.metadata(), name)
        except FetchFailed as error:
            raise IssuerUnavailable(self.issuer.name, str(error)) from error

    def key(self, kid: str | None, algorithm: str) -> jwt.PyJWK:
        """The key of this id for this algorithm. Raises InvalidToken or IssuerUnavailable."""
        known = self._current()
        if kid is not None and all(key.kid != kid for key in known.keys):
            known = self._again(known)
        fitting = [
            key for key in known.keys if key.algorithm == algorithm and (kid is None or key.kid == kid)
        ]
        # Without an id there must be no choice.
        if len(fitting) != 1:
            raise InvalidToken("it is signed with a key that is not its issuer's")
        return fitting[0].jwk

    def _current(self) -> Known:
        known = self._known
        if known is not None and self._age(known) < FRESH_S:
            return known
        usable = known if known is not None and self._age(known) < USABLE_S else None
        # One asks; whoever has something to work with meanwhile does not wait for that.
        if usable is not None and self._asking.locked():
            return usable
        with self._asking:
            if self._known is not None and self._known is not known:
                return self._known
            try:
                return self._ask()
            except IssuerUnavailable as error:
                if usable is None:
                    raise
                log.warning("%s Its keys of before are used.", error)
                return usable

    def _again(self, known: Known) -> Known:
        """Ask for an unknown key id. Anybody can send one, so only so often."""
        with self._asking:
            if self._known is not None and self._known is not known:
                return self._known
            if self._clock() - self._refetched >= REFETCH_S:
                self._refetched = self._clock()
                return self._ask()
            if self._failure is not None:
                # It may well be one of the keys that could not be fetched.
                raise IssuerUnavailable(self.issuer.name, self._failure.why)
            return known

    def _ask(self) -> Known:
        if self._failure is not None and self._clock() - self._failure.at < PAUSE_S:
            raise IssuerUnavailable(self.issuer.name, self._failure.why)
        try:
            self._known, self._failure = self._fetch(), None
        except FetchFailed as error:
            self._failure = _Failure(str(error), self._clock())
            raise IssuerUnavailable(self.issuer.name, str(error)) from error
        return self._known

    def _fetch(self) -> Known:
        metadata = oidc_fetch.get_json(f"{self.issuer.issuer.rstrip('/')}/.well-known/openid-configuration")
        if metadata.get("issuer") != self.issuer.issuer:
            raise FetchFailed("its discovery document is another issuer's")
        keys = usable_keys(oidc_fetch.get_json(self._endpoint(metadata, "jwks_uri")).get("keys"))
        if not keys:
            raise FetchFailed("it has no keys that can be used")
        return Known(metadata, keys, self._clock())

    def _endpoint(self, metadata: Mapping[str, Any], name: str) -> str:
        url = metadata.get(name)
        # A provider elsewhere must not send us to this machine.
        if (
            not isinstance(url, str)
            or not is_safe_url(url)
            or (url.startswith("http:") and self.issuer.issuer.startswith("https:"))
        ):
            raise FetchFailed(f"its discovery document has no usable {name}")
        return url

    def _age(self, known: Known) -> float:
        return self._clock() - known.at

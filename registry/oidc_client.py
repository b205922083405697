"""The registry as a client of identity providers: the page that it sends people to, and what it makes of the answer.

    page(state, nonce, challenge) ──person logs in──> answer(code, iss) ──code, verifier──> ID token ──nonce──> Identity

OpenID Connect Core 1.0, the authorization code flow, with PKCE (RFC 7636) and the issuer named in the answer (RFC 9207).
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from registry.errors import InvalidToken, IssuerUnavailable, LoginRefused
from registry.oidc import MAX_TOKEN, Identity, verify
from registry.oidc_fetch import FetchFailed, post_form
from registry.oidc_keys import Provider

_ERROR = re.compile(r"[a-z_]{1,64}", re.ASCII)


def page(provider: Provider, callback: str, *, state: str, nonce: str, verifier: str) -> str:
    """Where people log in. Raises IssuerUnavailable."""
    query = {
        "response_type": "code",
        "client_id": provider.issuer.client_id,
        "redirect_uri": callback,
        "scope": " ".join(provider.issuer.scopes),
        "state": state,
        "nonce": nonce,
        "code_challenge": challenge_of(verifier),
        "code_challenge_method": "S256",
    }
    return with_query(provider.endpoint("authorization_endpoint"), query)


def identity_of(
    provider: Provider, callback: str, answer: Mapping[str, str], *, nonce: str, verifier: str
) -> Identity:
    """Who logged in. Raises LoginRefused, InvalidToken or IssuerUnavailable."""
    code = _code(provider, answer)
    identity = verify(
        _id_token(provider, callback, code, verifier), provider, provider.issuer.client_id or ""
    )
    said = identity.claims.get("nonce")
    if not isinstance(said, str) or not hmac.compare_digest(
        said.encode(errors="surrogatepass"), nonce.encode()
    ):
        raise InvalidToken("it belongs to another login")
    return identity


def challenge_of(verifier: str) -> str:
    """S256 of RFC 7636."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def with_query(url: str, query: Mapping[str, Any]) -> str:
    """The URL with these parameters, too."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"


def _code(provider: Provider, answer: Mapping[str, str]) -> str:
    if "error" in answer:
        raise LoginRefused(answer["error"] if _ERROR.fullmatch(answer["error"]) else "an error")
    # With several providers, the code of one must not be taken to another.
    named = answer.get("iss")
    must = provider.metadata().get("authorization_response_iss_parameter_supported") is True
    if named != provider.issuer.issuer and (must or named is not None):
        raise LoginRefused("in the name of another")
    if not answer.get("code"):
        raise LoginRefused("without a code")
    return answer["code"]


def _id_token(provider: Provider, callback: str, code: str, verifier: str) -> str:
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": callback}
    form |= {"code_verifier": verifier}
    credentials, more = _proof(provider)
    try:
        answer = post_form(provider.endpoint("token_endpoint"), form | more, credentials)
    except FetchFailed as error:
        if error.status is not None and 400 <= error.status < 500:
            raise LoginRefused(f"{error.status} when its code was exchanged") from error
        raise IssuerUnavailable(provider.issuer.name, str(error)) from error
    token = answer.get("id_token")
    if not isinstance(token, str) or len(token) > MAX_TOKEN:
        raise LoginRefused("without an identity token")
    return token


def _proof(provider: Provider) -> tuple[tuple[str, str] | None, dict[str, str]]:
    """How this registry says who it is: as Basic credentials, or in the form; without a secret it only says so."""
    name = provider.issuer.client_id or ""
    if provider.issuer.client_secret is None:
        return None, {"client_id": name}
    secret = provider.issuer.client_secret.get_secret_value()
    methods = provider.metadata().get("token_endpoint_auth_methods_supported")
    if isinstance(methods, list) and "client_secret_basic" not in methods:
        return None, {"client_id": name, "client_secret": secret}
    return (name, secret), {}

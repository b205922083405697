"""Identity tokens: the genuine one is believed, and no other, whoever made it and however."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from registry.errors import InvalidToken, IssuerNotFound
from registry.oidc import Identity, Providers, verify
from registry.settings import Issuer as Settings
from tests.servers.issuer import AUDIENCE, Issuer, private_key, public_jwk


@pytest.fixture
def providers(issuer: Issuer) -> Providers:
    return Providers([Settings(**issuer.settings)])


def encoded(value: Any) -> str:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def public_pem(key: str) -> bytes:
    return (
        private_key(key)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def hmac_signed(header: dict[str, Any], claims: dict[str, Any], secret: bytes) -> str:
    """Libraries refuse to do this."""
    signed = f"{encoded(header)}.{encoded(claims)}"
    return f"{signed}.{encoded(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


@pytest.mark.parametrize(
    ("key", "header"),
    [
        ("rsa", {}),
        ("rsa", {"alg": "PS256"}),
        ("ec", {}),
        ("ed", {}),
        ("rsa", {"typ": "jwt"}),
        ("rsa", {"typ": None}),
    ],
)
def test_a_genuine_token_says_who_it_is(issuer: Issuer, providers: Providers, key: str, header: Any) -> None:
    token = issuer.token(key, header)
    identity = providers.exchanged(token)
    assert (identity.issuer, identity.subject) == (issuer.url, "repo:acme/fraud:ref:refs/heads/main")
    assert identity.claims["repository"] == "acme/fraud"
    assert identity.signed == token.rpartition(".")[0]


def test_its_audience_may_be_a_list_of_one(issuer: Issuer, providers: Providers) -> None:
    assert providers.exchanged(issuer.token(aud=[AUDIENCE])).subject


def test_clocks_may_differ_a_little(issuer: Issuer, providers: Providers) -> None:
    now = int(time.time())
    assert providers.exchanged(issuer.token(iat=now + 20, nbf=now + 20)).subject
    assert providers.exchanged(issuer.token(exp=now - 20)).subject


def test_without_a_key_id_the_only_key_that_fits_is_meant(issuer: Issuer, providers: Providers) -> None:
    assert providers.exchanged(issuer.token("ec", {"kid": None})).subject
    issuer.keys.append(public_jwk("ec-2"))
    other = Providers([Settings(**issuer.settings)])
    with pytest.raises(InvalidToken):
        other.exchanged(issuer.token("ec", {"kid": None}))


def _raw(issuer: Issuer, **changes: Any) -> str:
    """What jwt.encode would not take."""
    content = json.dumps(issuer.claims(**changes)).encode()
    return jwt.PyJWS().encode(content, private_key("rsa"), "RS256", {"kid": "rsa"})


def _with_claims(issuer: Issuer, extra: bytes) -> str:
    content = json.dumps(issuer.claims(exp=None)).encode()
    return jwt.PyJWS().encode(b"{" + extra + content[1:], private_key("rsa"), "RS256", {"kid": "rsa"})


def _with_header(issuer: Issuer, header: dict[str, Any]) -> str:
    """Properly signed, under exactly this header."""
    signed = f"{encoded(header)}.{encoded(issuer.claims())}"
    algorithm = jwt.get_algorithm_by_name("RS256")
    return f"{signed}.{encoded(algorithm.sign(signed.encode(), private_key('rsa')))}"


def _swapped(issuer: Issuer) -> str:
    header, _, signature = issuer.token().split(".")
    return f"{header}.{encoded(issuer.claims(repository='acme/other'))}.{signature}"


# What an attacker may send: each made from the honest issuer and from a key of the attacker's own.
FORGED: dict[str, Callable[[Issuer], str]] = {
    "no algorithm": lambda issuer: f"{encoded({'alg': 'none', 'kid': 'rsa'})}.{encoded(issuer.claims())}.",
    "no algorithm, in capitals": lambda issuer: f"{encoded({'alg': 'NONE'})}.{encoded(issuer.claims())}.",
    "no algorithm named": lambda issuer: f"{encoded({'kid': 'rsa'})}.{encoded(issuer.claims())}.AAAA",
    "an algorithm that is no text": lambda issuer: (
        f"{encoded({'alg': ['RS256']})}.{encoded(issuer.claims())}.AAAA"
    ),
    "HS256 with the public key": lambda issuer: hmac_signed(
        {"alg": "HS256", "kid": "rsa"}, issuer.claims(), public_pem("rsa")
    ),
    "HS256 with the key set": lambda issuer: hmac_signed(
        {"alg": "HS256", "kid": "rsa"}, issuer.claims(), json.dumps(public_jwk("rsa")).encode()
    ),
    "RS256 with an HMAC": lambda issuer: hmac_signed(
        {"alg": "RS256", "kid": "rsa"}, issuer.claims(), public_pem("rsa")
    ),
    "RS512, which the key could do": lambda issuer: issuer.token("rsa", {"alg": "RS512"}),
    "ES384": lambda issuer: issuer.token("p384", {"kid": "ec"}),
    "another key under a known id": lambda issuer: issuer.token("rsa-attacker", {"kid": "rsa"}),
    "another key under its own id": lambda issuer: issuer.token("rsa-attacker"),
    "another key and no id": lambda issuer: issuer.token("rsa-attacker", {"kid": None}),
    "a key of another type under a known id": lambda issuer: issuer.token("ed", {"kid": "rsa"}),
    "an algorithm that is not its key's": lambda issuer: issuer.token("rsa", {"kid": "ec"}),
    "it brings its key along": lambda issuer: issuer.token(
        "rsa-attacker", {"kid": "rsa", "jwk": public_jwk("rsa-attacker")}
    ),
    "it brings its key along, under a new id": lambda issuer: issuer.token(
        "rsa-attacker", {"jwk": public_jwk("rsa-attacker")}
    ),
    "an unknown critical extension": lambda issuer: issuer.token("rsa", {"crit": ["exp-not"], "exp-not": 1}),
    "a known critical extension": lambda issuer: issuer.token("rsa", {"crit": ["b64"], "b64": True}),
    "no critical extension": lambda issuer: _with_header(issuer, {"alg": "RS256", "kid": "rsa", "crit": []}),
    "b64 without crit": lambda issuer: _with_header(issuer, {"alg": "RS256", "kid": "rsa", "b64": True}),
    "an unknown key id": lambda issuer: issuer.token("rsa", {"kid": "unknown"}),
    "a key id that is a path": lambda issuer: issuer.token("rsa", {"kid": "../../dev/null"}),
    "a key id that is no text": lambda issuer: _with_header(issuer, {"alg": "RS256", "kid": 5}),
    "a logout token": lambda issuer: issuer.token("rsa", {"typ": "logout+jwt"}),
    "an access token": lambda issuer: issuer.token("rsa", {"typ": "at+jwt"}),
    "a type that is no text": lambda issuer: _with_header(issuer, {"alg": "RS256", "kid": "rsa", "typ": 1}),
    "expired": lambda issuer: issuer.token(exp=int(time.time()) - 60),
    "never expires": lambda issuer: issuer.token(exp=None),
    "expires in a century": lambda issuer: issuer.token(exp=int(time.time()) + 100 * 365 * 86400),
    "expires beyond all times": lambda issuer: issuer.token(exp=10**400),
    "expires at no number": lambda issuer: issuer.token(exp="soon"),
    "expires at infinity": lambda issuer: _with_claims(issuer, b'"exp": Infinity, '),
    "expires at NaN": lambda issuer: _with_claims(issuer, b'"exp": NaN, '),
    "not yet valid": lambda issuer: issuer.token(nbf=int(time.time()) + 90),
    "issued in the future": lambda issuer: issuer.token(iat=int(time.time()) + 90),
    "never issued": lambda issuer: issuer.token(iat=None),
    "another issuer": lambda issuer: issuer.token(iss="https://issuer.example"),
    "an issuer that looks alike": lambda issuer: issuer.token(iss=issuer.url + "/"),
    "issuers": lambda issuer: _raw(issuer, iss=[issuer.url]),
    "no issuer": lambda issuer: issuer.token(iss=None),
    "another audience": lambda issuer: issuer.token(aud="https://other.example"),
    "an audience that begins alike": lambda issuer: issuer.token(aud=AUDIENCE + ".evil.example"),
    "several audiences": lambda issuer: issuer.token(aud=[AUDIENCE, "https://other.example"]),
    "no audience": lambda issuer: issuer.token(aud=None),
    "an empty audience": lambda issuer: issuer.token(aud=[]),
    "an audience that is no text": lambda issuer: issuer.token(aud=[{"x": AUDIENCE}]),
    "meant for people who log in": lambda issuer: issuer.token(aud="modelyard"),
    "no subject": lambda issuer: issuer.token(sub=None),
    "an empty subject": lambda issuer: issuer.token(sub=""),
    "a subject that is no text": lambda issuer: issuer.token(sub=7),
    "a subject with NUL": lambda issuer: issuer.token(sub="alice\0"),
    "a subject with half a character": lambda issuer: issuer.token(sub="alice\ud800"),
    "a subject without end": lambda issuer: issuer.token(sub="a" * 256),
    "a token id that is no text": lambda issuer: issuer.token(jti=5),
    "too long": lambda issuer: issuer.token(padding="x" * 16_384),
    "claims that were changed": _swapped,
    "no claims but a list": lambda _issuer: jwt.PyJWS().encode(
        b"[]", private_key("rsa"), "RS256", {"kid": "rsa"}
    ),
    "claims nested beyond reason": lambda _issuer: jwt.PyJWS().encode(
        b"[" * 6000, private_key("rsa"), "RS256", {"kid": "rsa"}
    ),
    "claims that are no text": lambda _issuer: jwt.PyJWS().encode(
        b'{"iss": "\xff"}', private_key("rsa"), "RS256", {"kid": "rsa"}
    ),
    "a header nested beyond reason": lambda _issuer: f"{encoded(b'[' * 6000)}.{encoded({})}.AAAA",
    "a number of 5,000 digits": lambda _issuer: f"{encoded(b'9' * 5000)}.{encoded({})}.AAAA",
    "nothing": lambda _issuer: "",
    "dots": lambda _issuer: "..",
    "not base64": lambda _issuer: "a.b.c!",
    "not ASCII": lambda _issuer: "é.é.é",
    "half a character": lambda _issuer: "\ud800.a.b",
    "NUL": lambda _issuer: "\0.\0.\0",
    "an API token": lambda _issuer: "myd_abcdefghijklmnop_qrstuvwxyz",
}


@pytest.mark.parametrize("what", FORGED)
def test_no_other_token_is_believed(issuer: Issuer, providers: Providers, what: str) -> None:
    assert providers.exchanged(issuer.token()).subject
    with pytest.raises(InvalidToken) as refused:
        providers.exchanged(FORGED[what](issuer))
    assert "acme" not in str(refused.value)


def test_headers_that_are_signed_by_hand_would_be_accepted_if_they_were_right(
    issuer: Issuer, providers: Providers
) -> None:
    """Else the refusals above could be for another reason."""
    assert providers.exchanged(_with_header(issuer, {"alg": "RS256", "kid": "rsa"})).subject
    assert providers.exchanged(_raw(issuer)).subject
    soon = str(int(time.time()) + 60).encode()
    assert providers.exchanged(_with_claims(issuer, b'"exp": ' + soon + b", ")).subject


def test_addresses_in_a_header_are_never_asked(
    issuer: Issuer, new_issuer: Callable[..., Issuer], providers: Providers
) -> None:
    attacker = new_issuer()
    attacker.keys = [public_jwk("rsa-attacker")]
    keys = f"{attacker.url}/keys"
    for header in (
        {"jku": keys},
        {"x5u": keys},
        {"jku": keys, "kid": "rsa"},
        {"x5c": ["AAAA"], "kid": "rsa"},
    ):
        with pytest.raises(InvalidToken):
            providers.exchanged(issuer.token("rsa-attacker", header))
    assert attacker.asked == []


def test_the_same_subject_of_another_issuer_is_somebody_else(
    issuer: Issuer, new_issuer: Callable[..., Issuer]
) -> None:
    """Two issuers that share even their keys: what one signed is not the other's, and their people are not the same."""
    other = new_issuer()
    both = Providers([Settings(**issuer.settings), Settings(**other.settings | {"name": "other"})])
    ours, theirs = both.exchanged(issuer.token()), both.exchanged(other.token())
    assert ours.subject == theirs.subject
    assert (ours.issuer, theirs.issuer) == (issuer.url, other.url)
    with pytest.raises(InvalidToken):
        verify(other.token(), both.named("ours"), AUDIENCE)
    issuer.keys, other.keys = [public_jwk("rsa-ours")], [public_jwk("rsa-theirs")]
    both = Providers([Settings(**issuer.settings), Settings(**other.settings | {"name": "other"})])
    with pytest.raises(InvalidToken):
        both.exchanged(other.token("rsa-theirs", iss=issuer.url))


def test_an_issuer_of_people_is_not_one_of_programs(issuer: Issuer) -> None:
    only_people = Providers([Settings(**{**issuer.settings, "audience": None})])
    with pytest.raises(InvalidToken):
        only_people.exchanged(issuer.token(aud="modelyard"))
    only_programs = Providers([Settings(**{**issuer.settings, "client_id": None})])
    with pytest.raises(IssuerNotFound):
        only_programs.named("ours")


def test_an_identity_does_not_show_its_token() -> None:
    shown = repr(Identity("https://i", "s", 1, {"secret": "claim"}, "a.b"))
    assert "claim" not in shown
    assert "a.b" not in shown


UNUSABLE: dict[str, Any] = {
    "not for signatures": public_jwk("rsa-x", use="enc"),
    "not to verify with": public_jwk("rsa-x", key_ops=["encrypt"]),
    "for another algorithm": public_jwk("rsa-x", alg="RS512"),
    "symmetric": {"kty": "oct", "k": "AAAA", "kid": "rsa-x"},
    "of another curve": public_jwk("p384-x", kid="rsa-x"),
    "without its numbers": {"kty": "RSA", "kid": "rsa-x"},
    "with numbers that are none": {"kty": "RSA", "kid": "rsa-x", "n": 5, "e": ["AQAB"]},
    "with an empty number": public_jwk("rsa-x", n=""),
    "with a number without end": public_jwk("rsa-x", n="A" * 100_000),
    "with a point that is not on its curve": public_jwk("ec-x", kid="rsa-x", x="A" * 43),
    "with a type that is no text": {"kty": ["RSA"], "kid": "rsa-x"},
    "not an object": "rsa-x",
    "with an id that is no text": public_jwk("rsa-x", kid=5),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_keys_that_cannot_be_used_are_left_out(issuer: Issuer, what: str) -> None:
    issuer.keys.append(UNUSABLE[what])
    providers = Providers([Settings(**issuer.settings)])
    assert providers.exchanged(issuer.token()).subject
    for header in ({}, {"alg": "HS256", "kid": "rsa-x"}):
        token = hmac_signed(header, issuer.claims(), b"\0\0\0") if header else issuer.token("rsa-x")
        with pytest.raises(InvalidToken):
            providers.exchanged(token)


def test_a_short_key_is_not_enough(issuer: Issuer) -> None:
    issuer.keys.append(public_jwk("rsa-short"))
    with pytest.warns(jwt.warnings.InsecureKeyLengthWarning):
        token = issuer.token("rsa-short")
    with pytest.raises(InvalidToken):
        Providers([Settings(**issuer.settings)]).exchanged(token)


def test_a_private_key_among_the_public_ones_is_used_as_a_public_one(issuer: Issuer) -> None:
    whole = jwt.get_algorithm_by_name("RS256").to_jwk(private_key("rsa"), as_dict=True)
    issuer.keys = [{**whole, "key_ops": ["sign", "verify"], "kid": "rsa"}]
    providers = Providers([Settings(**issuer.settings)])
    assert providers.exchanged(issuer.token()).subject
    assert not hasattr(providers._all[0].key("rsa", "RS256").key, "private_numbers")

"""An identity provider of our own: honest unless told otherwise, so that every lie can be tried.

It is a real HTTP server on loopback, with real keys. What it answers can be replaced (`answers`), what it was asked is
kept (`asked`), and `token` signs anything with any of its keys.
"""

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

CLIENT = {"client_id": "modelyard", "client_secret": "the secret of the registry / 100%"}
AUDIENCE = "https://registry.example"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
Answer = tuple[int, dict[str, str], bytes]


@cache
def private_key(name: str) -> PrivateKeyTypes:
    """The same key for the same name, all through the session; the name begins with its kind."""
    if name.startswith("rsa-short"):
        return rsa.generate_private_key(65537, 1024)  # noqa: S505 - too short is the point
    if name.startswith("rsa"):
        return rsa.generate_private_key(65537, 2048)
    if name.startswith("p384"):
        return ec.generate_private_key(ec.SECP384R1())
    if name.startswith("ec"):
        return ec.generate_private_key(ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate()


def algorithm_of(name: str) -> str:
    kinds = {"rsa": "RS256", "ec": "ES256", "p384": "ES384"}
    return next((algorithm for kind, algorithm in kinds.items() if name.startswith(kind)), "EdDSA")


def public_jwk(name: str, **members: Any) -> dict[str, Any]:
    """The public half of a key as a JSON Web Key."""
    public = private_key(name).public_key()
    made = jwt.get_algorithm_by_name(algorithm_of(name)).to_jwk(public, as_dict=True)
    made.pop("key_ops", None)
    return {**made, "kid": name, "use": "sig", **members}


def other_signature(token: str) -> str:
    """The same token with the other valid signature that every ES256 signature has: (r, -s)."""
    signed, _, signature = token.rpartition(".")
    content = base64.urlsafe_b64decode(signature + "==")
    s = P256_ORDER - int.from_bytes(content[32:], "big")
    other = content[:32] + s.to_bytes(32, "big")
    return f"{signed}.{base64.urlsafe_b64encode(other).rstrip(b'=').decode()}"


class Issuer:
    """One provider at one address."""

    def __init__(self, port: int = 0) -> None:
        self.keys = [public_jwk(name) for name in ("rsa", "ec", "ed")]
        self.answers: dict[str, Answer | Callable[[], Answer]] = {}
        self.asked: list[str] = []
        self.person: dict[str, Any] = {"sub": "248289761001", "preferred_username": "alice"}
        self.changes: dict[str, Any] = {}
        self._codes: dict[str, dict[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def settings(self) -> dict[str, Any]:
        """What the registry's operator says of it."""
        return {"name": "ours", "issuer": self.url, **CLIENT, "audience": AUDIENCE, "create_people": True}

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Of a CI job; None takes a claim out."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "sub": "repo:acme/fraud:ref:refs/heads/main",
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now,
            "exp": now + 300,
            "jti": secrets.token_hex(8),
            "repository": "acme/fraud",
            "ref": "refs/heads/main",
        }
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def token(self, key: str = "rsa", header: dict[str, Any] | None = None, **changes: Any) -> str:
        """A token of these claims. `header` changes the header; the key's own algorithm is the default."""
        headers = {"kid": key, **(header or {})}
        headers = {name: value for name, value in headers.items() if value is not None}
        return jwt.encode(
            self.claims(**changes), private_key(key), headers.pop("alg", algorithm_of(key)), headers
        )

    def says(self, path: str, content: Any, status: int = 200, **headers: str) -> None:
        """Answer this from now on."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.answers[path] = status, headers, body

    def discovery(self, **changes: Any) -> dict[str, Any]:
        document = {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "authorization_response_iss_parameter_supported": True,
        }
        return document | changes

    def _answer(self, path: str, query: dict[str, str], form: dict[str, str], authorization: str) -> Answer:
        if path in self.answers:
            told = self.answers[path]
            return told() if callable(told) else told
        if path == "/.well-known/openid-configuration":
            return 200, {}, json.dumps(self.discovery()).encode()
        if path == "/keys":
            return 200, {}, json.dumps({"keys": self.keys}).encode()
        if path == "/authorize":
            return self._authorize(query)
        if path == "/token":
            return self._token(form, authorization)
        return 404, {}, b""

    def _authorize(self, query: dict[str, str]) -> Answer:
        """The person is there and agrees at once."""
        code = secrets.token_urlsafe(16)
        self._codes[code] = query
        answer = urlencode({"code": code, "state": query["state"], "iss": self.url})
        return 302, {"Location": f"{query['redirect_uri']}?{answer}"}, b""

    def _token(self, form: dict[str, str], authorization: str) -> Answer:
        began = self._codes.pop(form.get("code", ""), None)
        if began is None or not self._is_client(authorization) or not _fits(form, began):
            return 400, {}, b'{"error": "invalid_grant"}'
        claims = {"aud": CLIENT["client_id"], "nonce": began["nonce"], **self.person, **self.changes}
        id_token = self.token(repository=None, ref=None, jti=None, nbf=None, **claims)
        return (
            200,
            {},
            json.dumps({"id_token": id_token, "access_token": "x", "token_type": "Bearer"}).encode(),
        )

    def _is_client(self, authorization: str) -> bool:
        kind, _, given = authorization.partition(" ")
        name, _, secret = base64.b64decode(given).decode().partition(":")
        return kind == "Basic" and [unquote(name), unquote(secret)] == list(CLIENT.values())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._do({})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self._do(_flat(body))

            def _do(self, form: dict[str, str]) -> None:
                parts = urlsplit(self.path)
                issuer.asked.append(parts.path)
                status, headers, body = issuer._answer(
                    parts.path, _flat(parts.query), form, self.headers.get("Authorization", "")
                )
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _flat(query: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}


def _fits(form: dict[str, str], began: dict[str, str]) -> bool:
    """PKCE and the redirect, as RFC 7636 and RFC 6749 have them."""
    challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
    return (
        began["code_challenge_method"] == "S256"
        and challenge.decode() == began["code_challenge"]
        and form["redirect_uri"] == began["redirect_uri"]
        and form["grant_type"] == "authorization_code"
    )


@pytest.fixture
def new_issuer() -> Iterator[Callable[..., Issuer]]:
    """Starts identity providers, each at an address of its own."""
    with ExitStack() as stack:

        def new(port: int = 0) -> Issuer:
            issuer = Issuer(port)
            stack.callback(issuer.close)
            return issuer

        yield new


@pytest.fixture
def issuer(new_issuer: Callable[..., Issuer]) -> Issuer:
    return new_issuer()

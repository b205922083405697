"""Canaille, an identity provider that organisations use, in a process of its own: one for the session.

It insists on PKCE and nonces, asks for a password in pages with CSRF tokens, and wants consent. Each test registers itself
as a client there (RFC 7591), with redirect addresses of its own.

As a program (`python -m tests.servers.canaille PORT`) it is that process.
"""

import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.servers.ports import free_port, wait_for_http
from tests.servers.processes import daemons

PERSON, GROUP = "alice", "ml-team"
RELUCTANT = "mallory"
"""Somebody who never consents: Canaille remembers who has."""
PASSWORD = "the password of everybody"


@dataclass(frozen=True)
class Canaille:
    """A running provider with two people, one of them in a group."""

    url: str

    def register(self, callback: str) -> dict[str, Any]:
        """Become a client; returns the settings of a registry that people come back to at `callback`."""
        wanted = {
            "client_name": "Modelyard",
            "redirect_uris": [callback],
            "token_endpoint_auth_method": "client_secret_basic",
            "grant_types": ["authorization_code"],
            "response_types": ["code"],
            "scope": "openid profile email groups",
        }
        discovered = httpx2.get(f"{self.url}/.well-known/openid-configuration").json()
        answer = httpx2.post(discovered["registration_endpoint"], json=wanted)
        assert answer.status_code == 201, answer.text
        return {
            "name": "canaille",
            "issuer": discovered["issuer"],
            "client_id": answer.json()["client_id"],
            "client_secret": answer.json()["client_secret"],
            "scopes": ["openid", "profile", "email", "groups"],
            "name_claim": "sub",
            "groups_claim": "groups",
            "create_people": True,
        }


@pytest.fixture(scope="session")
def canaille() -> Iterator[Canaille]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="modelyard-canaille-") as logs, daemons(Path(logs)) as running:
        running.start("canaille", [sys.executable, "-m", "tests.servers.canaille", str(port)])
        try:
            wait_for_http(f"http://127.0.0.1:{port}/.well-known/openid-configuration", timeout_s=90)
        except TimeoutError:
            running.require_alive()
            raise
        yield Canaille(f"http://127.0.0.1:{port}")


def _serve(port: int) -> None:
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # loopback
    from canaille import create_app
    from canaille.app import models
    from canaille.backends import Backend
    from werkzeug.serving import make_server

    app = create_app(
        {
            "SECRET_KEY": secrets.token_hex(32),
            "SERVER_NAME": f"127.0.0.1:{port}",
            "PREFERRED_URL_SCHEME": "http",
            "SESSION_COOKIE_SECURE": False,
            "CANAILLE": {
                "DATABASE": "memory",
                "JAVASCRIPT": False,
                "ACL": {"DEFAULT": {"PERMISSIONS": ["use_oidc"]}},
            },
            "CANAILLE_OIDC": {"DYNAMIC_CLIENT_REGISTRATION_OPEN": True},
        }
    )
    with app.app_context():
        for name in (RELUCTANT, PERSON):
            person = models.User(
                user_name=name,
                formatted_name=name.title(),
                family_name="Liddell",
                emails=[f"{name}@example.com"],
                password=PASSWORD,
            )
            Backend.instance.save(person)
        Backend.instance.save(models.Group(display_name=GROUP, members=[person]))
    make_server("127.0.0.1", port, app, threaded=True).serve_forever()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))

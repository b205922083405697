"""Signatures after the Standard Webhooks specification (standardwebhooks.com), so that receivers can use its libraries.

webhook-id           the delivery's id, the same for each attempt
webhook-timestamp    seconds since 1970, of this attempt
webhook-signature    v1,<base64 of HMAC-SHA-256(secret, "id.timestamp.body")>, once for each secret that is good now
"""

import base64
import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime

SECRET_BYTES = 32


def new_secret() -> bytes:
    return secrets.token_bytes(SECRET_BYTES)


def written(secret: bytes) -> str:
    """The form in which a secret is shown and given to libraries."""
    return "whsec_" + base64.b64encode(secret).decode()


def headers(delivery: str, at: datetime, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """The three headers that let a receiver check who sent `body`, and when."""
    timestamp = str(int(at.timestamp()))
    said = f"{delivery}.{timestamp}.".encode() + body
    return {
        "webhook-id": delivery,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(_sign(key, said) for key in keys),
    }


def _sign(key: bytes, said: bytes) -> str:
    return "v1," + base64.b64encode(hmac.digest(key, said, "sha256")).decode()

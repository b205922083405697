"""Where the registry is and who we are: the only reader of the environment and of config.json.

argument  >  MODELYARD_URL, MODELYARD_TOKEN  >  MODELYARD_HOME/config.json (`modelyard login`)  >  http://127.0.0.1:7070

A stored token belongs to the URL that it was stored with: it is not sent to a registry that was named in another way.
"""

import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from modelyard._errors import ConfigurationError

DEFAULT_CACHE_BYTES = 20 << 30
DEFAULT_URL = "http://127.0.0.1:7070"
LOGIN_HINT = "Run `modelyard login URL` to write it anew."


@dataclass(frozen=True, slots=True)
class Config:
    """A registry's `url` without a slash at its end, the `token` for it if any, and the directory for config and cache."""

    url: str
    token: str | None = field(repr=False)
    home: Path


def load(url: str | None = None, token: str | None = None) -> Config:
    """Combine arguments, environment and config.json; an empty `token` stands for none. Raises ConfigurationError.

    A registry on this machine keeps a token for its user in local.json, so that nobody has to log in to it.
    """
    home = home_directory()
    stored = _read(home / "config.json")
    chosen = check_url(url or os.environ.get("MODELYARD_URL") or stored.get("url") or DEFAULT_URL)
    secret = os.environ.get("MODELYARD_TOKEN") if token is None else token
    if secret is None and stored.get("url") == chosen:
        secret = stored.get("token")
    if secret is None and _same_place((local := _read(home / "local.json")).get("url", ""), chosen):
        secret = local.get("token")
    return Config(url=chosen, token=check_token(secret) if secret else None, home=home)


def home_directory() -> Path:
    """MODELYARD_HOME, or ~/.modelyard."""
    given = os.environ.get("MODELYARD_HOME")
    return Path(given).absolute() if given else Path.home() / ".modelyard"


def cache_limit() -> int:
    """MODELYARD_CACHE_BYTES, or 20 GiB. Raises ConfigurationError."""
    given = os.environ.get("MODELYARD_CACHE_BYTES")
    if not given:
        return DEFAULT_CACHE_BYTES
    if not (given.isascii() and given.isdigit() and len(given) < 20):
        raise ConfigurationError(f"MODELYARD_CACHE_BYTES is {given!r}: expected a number of bytes.")
    return int(given)


def save(url: str, token: str | None) -> Path:
    """Write config.json, readable by its owner only; returns its path."""
    home = home_directory()
    content = json.dumps({"url": url} | ({"token": token} if token else {}), indent=2) + "\n"
    # Written beside and renamed: a reader sees the old file or the new one, and no moment has wider permissions.
    temporary = home / f".config.{secrets.token_hex(8)}.tmp"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(home / "config.json")
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigurationError(
            f"{str(home / 'config.json')!r} cannot be written: {error.strerror}."
        ) from error
    return home / "config.json"


def check_url(url: str) -> str:
    """Return a registry's URL without a slash at its end; raise ConfigurationError when it cannot be one."""
    parts = _split(url)
    if "@" in parts.netloc:
        # The URL itself is not repeated: it holds a secret.
        raise ConfigurationError(
            "The registry's URL must not contain user or password: set MODELYARD_TOKEN instead."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigurationError(f"{url!r} is not a registry's URL: expected something like {DEFAULT_URL}.")
    return url.rstrip("/")


def _same_place(one: str, other: str) -> bool:
    """Whether two URLs name one registry of this machine."""
    return one.replace("//localhost", "//127.0.0.1") == other.replace("//localhost", "//127.0.0.1")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is no number
    except ValueError as error:
        raise ConfigurationError(f"The registry's URL cannot be read ({error}).") from error
    return parts


def check_token(token: str) -> str:
    """Return `token` if an HTTP header can carry it; raise ConfigurationError, which does not repeat it, otherwise."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigurationError(
            "The token has characters that no token has: was it pasted in full, without line breaks?"
        )
    return token


def _read(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigurationError(f"{str(path)!r} is not valid JSON. {LOGIN_HINT}") from error
    if not isinstance(content, dict) or not all(isinstance(each, str) for each in content.values()):
        raise ConfigurationError(
            f"{str(path)!r} does not hold an object with `url` and `token`. {LOGIN_HINT}"
        )
    return content

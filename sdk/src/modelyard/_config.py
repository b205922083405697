"""Where the registry is and who we are: the only reader of the environment, of config.json and of local.json.

    URL     argument  >  MODELYARD_URL    >  config.json                >  http://127.0.0.1:7070
    token   argument  >  MODELYARD_TOKEN  >  config.json  >  local.json >  none

`modelyard login` writes config.json; a registry on this machine writes local.json, for its user. Both are in
MODELYARD_HOME. A token in them belongs to the registry that stands beside it, and is sent to no other.
"""

import json
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from modelyard._errors import ConfigurationError

DEFAULT_CACHE_BYTES = 20 << 30
DEFAULT_URL = "http://127.0.0.1:7070"
_WAY_OUT = {
    "config.json": "Run `modelyard login URL` to write it anew.",
    "local.json": "Remove it, and start the registry of this machine again to write it anew.",
}
_WORKSPACE = re.compile(r"/w/[^/]+$")


@dataclass(frozen=True, slots=True)
class Config:
    """A registry's `url` without a slash at its end, the `token` for it if any, and the directory for config and cache."""

    url: str
    token: str | None = field(repr=False)
    home: Path


def load(url: str | None = None, token: str | None = None) -> Config:
    """Combine arguments, environment and files; an empty `token` stands for none. Raises ConfigurationError."""
    home = home_directory()
    chosen = url or os.environ.get("MODELYARD_URL") or _read(home / "config.json").get("url") or DEFAULT_URL
    chosen = check_url(chosen)
    secret = os.environ.get("MODELYARD_TOKEN") if token is None else token
    if secret is None:
        secret = stored_token(chosen)
    return Config(url=chosen, token=check_token(secret) if secret else None, home=home)


def stored_token(url: str) -> str | None:
    """The token that is kept on this machine for the registry at `url`, whichever workspace of it."""
    return _token_for(url, "config.json") or local_token(url)


def local_token(url: str) -> str | None:
    """The token with which a registry on this machine lets its user in."""
    return _token_for(url, "local.json")


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


def _token_for(url: str, name: str) -> str | None:
    kept = _read(home_directory() / name)
    return kept.get("token") if _registry_of(kept.get("url", "")) == _registry_of(url) else None


def _registry_of(url: str) -> str:
    """The URL without the workspace that it selects, and with one name for this machine."""
    return _WORKSPACE.sub("", url).replace("//localhost:", "//127.0.0.1:")


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
        raise ConfigurationError(f"{str(path)!r} is not valid JSON. {_WAY_OUT[path.name]}") from error
    if not isinstance(content, dict) or not all(isinstance(each, str) for each in content.values()):
        raise ConfigurationError(
            f"{str(path)!r} does not hold an object with `url` and `token`. {_WAY_OUT[path.name]}"
        )
    return content

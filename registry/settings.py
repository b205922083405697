"""The registry's settings: the only place that reads the environment.

Every field is an environment variable MODELYARD_REGISTRY_<NAME>; the data directory is MODELYARD_HOME, as everywhere.
"""

import ipaddress
from collections import Counter
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from registry.deliveries.target import Allowed


def _plain_url(url: str) -> str:
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment or not is_safe_url(url):
        raise ValueError(
            "expected https://host/path (or http:// on loopback), without user, query or fragment"
        )
    return url


Url = Annotated[str, StringConstraints(max_length=512), AfterValidator(_plain_url)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[!-~]+$")]


class Issuer(BaseModel):
    """An identity provider (OpenID Connect): of people with `client_id`, of CI jobs and other programs with `audience`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    issuer: Url
    client_id: Label | None = None
    client_secret: SecretStr | None = None
    audience: Label | None = None
    scopes: tuple[Label, ...] = ("openid", "profile", "email")
    name_claim: Label = "preferred_username"
    groups_claim: Label | None = None
    # Which of the provider's groups count, and what they are called here; empty: all of them, under their own names.
    groups: dict[str, str] = {}
    create_people: bool = False

    @model_validator(mode="after")
    def _require_use(self) -> Self:
        if self.client_id is None and self.audience is None:
            raise ValueError("set client_id (people log in), audience (programs exchange tokens), or both")
        if self.client_id == self.audience:
            raise ValueError(
                "audience must not be the client_id: a token of one use must not do for the other"
            )
        if "openid" not in self.scopes:
            raise ValueError("scopes must contain openid")
        return self


class Settings(BaseSettings):
    """With nothing set: SQLite and disk under ~/.modelyard, on loopback, with a token for this user in local.json."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_REGISTRY_", extra="forbid", populate_by_name=True)

    home: Path = Field(Path("~/.modelyard"), validation_alias="MODELYARD_HOME")
    database_url: str = Field("", description="sqlite:///path or postgresql://user:password@host/name")
    storage_url: str = Field(
        "", description="file:///dir, s3://bucket/prefix?endpoint=…, minio://…, memory://"
    )
    host: str = "127.0.0.1"
    port: int = Field(7070, ge=0, le=65535)
    token: SecretStr | None = Field(
        None, min_length=16, description="bearer token of an administrator; with others, each has their own"
    )
    secret_key: SecretStr | None = Field(
        None,
        min_length=32,
        description="under which tokens are recognised, checkpoints signed and secrets kept; the same for all registries of one database. Without it, one is "
        "kept in MODELYARD_HOME/secret.key",
    )
    public_url: Url = Field(
        "", validate_default=False, description="where people's browsers reach this registry"
    )
    oidc: tuple[Issuer, ...] = Field((), description="identity providers, as a JSON list")
    trusted_proxies: tuple[IPvAnyNetwork, ...] = Field(
        (), description="networks of the proxies in front of this registry, as a JSON list"
    )
    max_body_bytes: int = Field(1024 * 1024, ge=1024, description="limit of a JSON body")
    max_blob_bytes: int = Field(
        5 * 1024**3, ge=1, description="limit of one file; 5 GiB is what S3 takes in one PUT"
    )
    max_manifest_bytes: int = Field(
        16 * 1024**2, ge=1024, description="limit of the JSON that lists the files and segments of a version"
    )
    verify_bytes: int = Field(
        64 * 1024**2,
        ge=0,
        description="new files that no store has checked are read before their version is visible, up to this many bytes; "
        "more are read right after it, and the version can be promoted then",
    )
    verify_poll_s: float = Field(
        10.0, gt=0, description="how often to look for bytes to verify that another registry left"
    )
    upload_ttl_s: int = Field(24 * 3600, ge=60, description="how long a started upload may take")
    url_ttl_s: int = Field(900, ge=30, description="how long a presigned URL is good for")
    restore_window_s: int = Field(
        7 * 24 * 3600, ge=0, description="how long a deleted version can be restored"
    )
    sweep_interval_s: float = Field(
        3600.0, ge=0, description="how often the server sweeps away bytes that nothing needs; 0: never"
    )
    sweep_grace_s: int = Field(
        3600, ge=60, description="how long such bytes wait, twice, before they are deleted"
    )
    sweep_max_share: float = Field(
        0.2, ge=0, le=1, description="the sweep stops when it would take a larger share of all blobs at once"
    )
    audit_checkpoint_s: float = Field(
        300.0, ge=0, description="how often the server signs where the audit trail ends; 0: never"
    )
    webhook_allow: tuple[str, ...] = Field(
        (),
        description="networks, addresses and host names that webhooks may be sent to although they are not public; "
        "with http:// before them, also without TLS",
    )
    webhook_poll_s: float = Field(
        1.0,
        ge=0,
        description="how often to look for deliveries that are due, or that another registry left; 0: send none",
    )
    webhook_senders: int = Field(8, ge=2, le=64, description="deliveries under way at once")
    webhook_retry_first_s: float = Field(
        10.0,
        gt=0,
        description="a failed delivery is tried again within this time, then within twice as long, …",
    )
    webhook_retry_cap_s: float = Field(3600.0, gt=0, description="… up to this")
    webhook_tries: int = Field(100, ge=1, description="a delivery is dead after so many attempts, …")
    webhook_give_up_s: float = Field(24 * 3600, gt=0, description="… or when it has failed for so long")
    webhook_deactivate_s: float = Field(
        3 * 24 * 3600, gt=0, description="a webhook that nothing got through to for so long is deactivated"
    )
    webhook_keep_s: float = Field(
        30 * 24 * 3600, gt=0, description="how long deliveries are listed after they ended"
    )
    feed_poll_s: float = Field(
        1.0,
        gt=0,
        description="how often to look for events while somebody watches, should notifications not arrive",
    )
    feed_retention_s: int = Field(30 * 24 * 3600, ge=60, description="how long events are kept")
    max_watch_s: float = Field(60.0, ge=0, description="longest wait of one long poll")
    max_stream_s: float = Field(3600.0, ge=0, description="longest life of one stream of events")
    max_watchers: int = Field(10_000, ge=1, description="how many may wait for events in one process")
    schedule_poll_s: float = Field(
        5.0, ge=0, description="how often to look for promotions whose time has come; 0: never"
    )
    drain_s: float = Field(10.0, ge=0, description="how long a stop waits for requests in flight")

    @field_validator("webhook_allow")
    @classmethod
    def _check_allowed(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            Allowed.parse(entry)
        return entries

    @model_validator(mode="after")
    def _fill_defaults(self) -> Self:
        self.home = self.home.expanduser().absolute()
        self.database_url = self.database_url or f"sqlite:///{self.home / 'registry.db'}"
        self.storage_url = self.storage_url or (self.home / "blobs").as_uri()
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.public_url = self.public_url.rstrip("/") or (
            f"http://{host}:{self.port}" if is_loopback(self.host) else ""
        )
        return self

    @model_validator(mode="after")
    def _tell_issuers_apart(self) -> Self:
        for used in ([each.name for each in self.oidc], [each.issuer for each in self.oidc]):
            if any(count > 1 for count in Counter(used).values()):
                raise ValueError("each identity provider needs a name and an issuer of its own")
        if not self.public_url and any(each.client_id for each in self.oidc):
            raise ValueError(
                "people who log in are sent back to this registry: set MODELYARD_REGISTRY_PUBLIC_URL"
            )
        return self

    @model_validator(mode="after")
    def _require_key_in_public(self) -> Self:
        if self.secret_key is None and not is_loopback(self.host):
            raise ValueError(
                f"refusing to listen on {self.host} without a secret key: set MODELYARD_REGISTRY_SECRET_KEY to 32 random "
                "characters or more, and MODELYARD_REGISTRY_TOKEN to the first administrator's token, or listen on 127.0.0.1."
            )
        return self


def is_safe_url(url: str) -> bool:
    """Whether nobody on the way can read or change what is fetched from there: https, or this machine."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is no number
    except ValueError:
        return False
    if not parts.hostname or not url.isascii() or not url.isprintable() or " " in url:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or address without port, means this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

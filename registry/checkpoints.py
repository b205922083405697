"""Checkpoints: signed statements that the audit trail, up to an entry, had a digest. They are kept outside the database.

    secret key ──HKDF-SHA-256──> Ed25519 seed ──> signature          public key ──> whoever wants to check it

    {"format", "sequence", "digest", "at", "previous": {"sequence", "digest"}, "key_id", "signature"}

The signature is over the canonical JSON of all but itself. Each names the one before, so that none can be taken out of the
middle. Two registry processes may each have a checkpoint that names the same one before: the chain may fork, as both are true.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.domain import canonical_json, sha256
from storage.layout import CHECKPOINTS, checkpoint_key

PURPOSE = b"modelyard/audit-checkpoints/1"
MAX_BYTES = 4096

_Sequence = Field(ge=1, le=2**63 - 1)
_Digest = Field(pattern=r"^sha256:[0-9a-f]{64}$")


class Mark(NamedTuple):
    """A place in the trail, and the digest of the entry there."""

    sequence: int
    digest: str


class NotAPublicKey(Exception):
    """It is no Ed25519 public key in PEM."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Before(_Strict):
    sequence: int = _Sequence
    digest: str = _Digest


class Checkpoint(_Strict):
    """What was signed. `at` is when, by the database's clock."""

    format: Literal["modelyard.audit.checkpoint/1"] = "modelyard.audit.checkpoint/1"
    sequence: int = _Sequence
    digest: str = _Digest
    at: str = Field(max_length=32)
    previous: _Before | None
    key_id: str = Field(max_length=64)
    signature: str = Field(max_length=128)

    @property
    def mark(self) -> Mark:
        return Mark(self.sequence, self.digest)

    def content(self) -> bytes:
        """The document, as it is stored."""
        return canonical_json(self.model_dump()) + b"\n"

    def signed(self) -> bytes:
        """The bytes that the signature is over."""
        return canonical_json(self.model_dump(exclude={"signature"}))


class Signer:
    """Signs checkpoints with a key that is derived from the registry's secret key."""

    def __init__(self, secret_key: bytes) -> None:
        seed = HKDF(algorithm=SHA256(), length=32, salt=None, info=PURPOSE).derive(secret_key)
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._key.public_key()

    def sign(self, mark: Mark, at: str, previous: Mark | None) -> Checkpoint:
        """A checkpoint of `mark`, signed at a time (text, UTC), after the one of `previous`."""
        unsigned = Checkpoint(
            **mark._asdict(),
            at=at,
            previous=None if previous is None else _Before(**previous._asdict()),
            key_id=key_id(self.public_key),
            signature="",
        )
        signature = base64.b64encode(self._key.sign(unsigned.signed())).decode()
        return unsigned.model_copy(update={"signature": signature})


class Found(NamedTuple):
    """A document that claims to be a checkpoint: where it lay (a key of the store, or a file), and its bytes."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Doubt:
    """What is wrong with a checkpoint, at which entry (0: nobody can tell)."""

    sequence: int
    detail: str


def key_id(key: Ed25519PublicKey) -> str:
    """A short name of a public key."""
    return sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).removeprefix("sha256:")[:16]


def public_pem(key: Ed25519PublicKey) -> str:
    """The key in the form that every tool reads."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def read_public_pem(pem: bytes) -> Ed25519PublicKey:
    """Raises NotAPublicKey."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise NotAPublicKey(
            "expected an Ed25519 public key in PEM, as `audit public-key` prints it"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise NotAPublicKey("expected an Ed25519 public key, and this is one of another kind")
    return key


def read(found: Found, keys: Mapping[str, Ed25519PublicKey]) -> Checkpoint | Doubt:
    """The checkpoint, if it is one, lies where it belongs, and one of these keys (by id) has signed it."""
    try:
        checkpoint = Checkpoint.model_validate(json.loads(found.content))
    except (ValueError, ValidationError, RecursionError):
        return Doubt(_named(found), f"{found.name} is not a checkpoint, or is damaged")
    if found.name.startswith(CHECKPOINTS) and found.name != checkpoint_key(checkpoint.sequence):
        return Doubt(
            _named(found),
            f"{found.name} holds the checkpoint of entry {checkpoint.sequence} instead of its own",
        )
    key = keys.get(checkpoint.key_id)
    if key is None:
        detail = f"{found.name} is signed with the key {checkpoint.key_id}, which is none of those given"
        return Doubt(checkpoint.sequence, detail)
    try:
        key.verify(base64.b64decode(checkpoint.signature, validate=True), checkpoint.signed())
    except (InvalidSignature, binascii.Error):
        return Doubt(
            checkpoint.sequence, f"the signature of {found.name} is wrong: it was forged, or changed later"
        )
    return checkpoint


def read_all(
    found: Iterable[Found], keys: Iterable[Ed25519PublicKey]
) -> tuple[Sequence[Checkpoint], Sequence[Doubt]]:
    """Those that can be trusted, in order, and what is wrong with the others and with the chain that they form."""
    by_id = {key_id(key): key for key in keys}
    outcomes = [read(each, by_id) for each in found]
    trusted = sorted({c for c in outcomes if isinstance(c, Checkpoint)}, key=lambda c: c.sequence)
    doubts = [outcome for outcome in outcomes if isinstance(outcome, Doubt)]
    return trusted, [*doubts, *_missing(trusted)]


def _missing(trusted: Sequence[Checkpoint]) -> Iterable[Doubt]:
    known = {checkpoint.mark for checkpoint in trusted}
    for checkpoint in trusted:
        before = checkpoint.previous
        if before is not None and Mark(before.sequence, before.digest) not in known:
            detail = f"the checkpoint of entry {checkpoint.sequence} names this one as the one before it"
            yield Doubt(
                before.sequence, f"{detail}, but there is none, or none that can be trusted: it was removed"
            )


def _named(found: Found) -> int:
    digits = found.name.removeprefix(CHECKPOINTS)
    return int(digits) if digits.isdecimal() else 0

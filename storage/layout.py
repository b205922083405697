"""Where a blob is kept. Every key is made here, by the server; no client ever names one.

    sha256/                     the digest's algorithm
    └── 9f/                     its first two hex digits: 256 folders, so that none grows huge
        └── 9f86d081…(64)/      the digest of the bytes
            ├── 3b1f0c…(32)     one upload of these bytes: a fresh UUID
            └── e20c77…(32)     a later upload, after the first was condemned
    trial/
    └── 77ab01…(32)             a few bytes for a moment: what can this store do? (trial.py) Left there only by a process that
                                was killed; nobody's bytes, so no check counts them
    audit/
    └── checkpoints/
        └── 00000000000000000042  a signed statement about the audit trail up to entry 42; nothing sweeps it away, and no
                                check counts it

A key is used once. A slow delete of an old key therefore never hits bytes that were uploaded again meanwhile,
and no backend needs a conditional write. Upper-case letters, dots, and whatever a file system could take for
more than a name are no part of a key, so that a key is a safe relative path, too.
"""

import re
import uuid

from storage.errors import InvalidKey

MAX_KEY_LENGTH = 240  # fits one file name (255 bytes), which the disk store gives to a blob in the making

CHECKPOINTS = "audit/checkpoints/"
"""What every key that `checkpoint_key` makes begins with."""

_TRIAL = "trial/"
_AUDIT = "audit/"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_KEY = re.compile(r"[a-z0-9]{1,64}(/[a-z0-9]{1,64}){0,7}")
_PREFIX = re.compile(r"([a-z0-9]{1,64}/){0,7}[a-z0-9]{0,64}")


def new_key(digest: str) -> str:
    """A key for one upload of the bytes whose digest ("sha256:" and 64 lower-case hex digits) this is."""
    digits = hex_digits(digest)
    return f"sha256/{digits[:2]}/{digits}/{uuid.uuid4().hex}"


def trial_key() -> str:
    """A key for an object that is deleted again at once."""
    return f"{_TRIAL}{uuid.uuid4().hex}"


def is_trial(key: str) -> bool:
    """Whether `trial_key` made this key: what lies there belongs to no upload and no version."""
    return key.startswith(_TRIAL)


def checkpoint_key(sequence: int) -> str:
    """The key of the checkpoint at this entry of the audit trail: text that sorts as the number does."""
    return f"{CHECKPOINTS}{sequence:020d}"


def is_audit(key: str) -> bool:
    """Whether this key is one of the audit trail's: what lies there belongs to no upload and no version, and stays."""
    return key.startswith(_AUDIT)


def hex_digits(digest: str) -> str:
    """The 64 digits of a digest; InvalidKey if it is none."""
    match = _DIGEST.fullmatch(digest)
    if not match:
        raise InvalidKey("expected a digest: sha256: and 64 lower-case hex digits")
    return match[1]


def is_key(key: str) -> bool:
    """Whether `key` could be one of ours; a listing shows nothing else, whatever else lies in the bucket."""
    return len(key) <= MAX_KEY_LENGTH and _KEY.fullmatch(key) is not None


def check_key(key: str) -> None:
    """Every backend's guard: 1 to 8 names of 1 to 64 lower-case letters and digits each, joined by "/"."""
    if not is_key(key):
        raise InvalidKey("expected 1 to 8 names of lower-case letters and digits, joined by /")


def check_prefix(prefix: str) -> None:
    """The beginning of a key, cut anywhere; "" is the beginning of all."""
    if len(prefix) > MAX_KEY_LENGTH or not _PREFIX.fullmatch(prefix):
        raise InvalidKey(
            "expected the beginning of a key: names of lower-case letters and digits, joined by /"
        )

"""Passwords: Argon2id hashes, the rules for new ones, and checking one at the same cost whether or not its owner exists.

Parameters as OWASP's Password Storage Cheat Sheet has them: 19 MiB of memory, 2 passes, 1 lane; some 30 ms of one core.
Nothing here may run on the event loop.
"""

import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from registry.errors import InvalidPassword

SHORTEST, LONGEST = 12, 1024

_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, hash_len=32, salt_len=16)
# Of no password: what is checked when there is none, so that the answer takes as long. (Salt and digest are zeros.)
_NOBODY = f"$argon2id$v=19$m={19 * 1024},t=2,p=1${'A' * 22}${'A' * 43}"

# What people type when they are told to use twelve characters; the first to be tried.
_WORST = frozenset(
    [
        "0123456789ab",
        "123456789012",
        "1234567890123",
        "123456789abc",
        "1q2w3e4r5t6y",
        "abcdefghijkl",
        "administrator",
        "changemechangeme",
        "correcthorsebatterystaple",
        "iloveyouiloveyou",
        "letmeinletmein",
        "modelyard123",
        "modelyardmodelyard",
        "password1234",
        "password12345",
        "passwordpassword",
        "qwertyqwerty",
        "qwertyuiop12",
        "qwertyuiop123",
        "qwertyuiopas",
        "welcomewelcome",
    ]
)
_FEWEST_DIFFERENT = 4


def check_new_password(password: str, name: str) -> str:
    """Return the password of `name` as it is hashed, or raise InvalidPassword, which does not repeat it."""
    password = _normal(password[: LONGEST + 1])
    if len(password) > LONGEST:
        raise InvalidPassword(f"A password has at most {LONGEST} characters.")
    if len(password) < SHORTEST:
        raise InvalidPassword(f"A password has at least {SHORTEST} characters.")
    if not _is_text(password):
        raise InvalidPassword("A password has no NUL and no half characters in it.")
    folded = password.casefold()
    if folded == _normal(name).casefold():
        raise InvalidPassword("The password must not be the name.")
    if folded in _WORST or len(set(folded)) < _FEWEST_DIFFERENT:
        raise InvalidPassword("This password is among the first that anybody would try.")
    return password


def hash_password(password: str, name: str) -> str:
    """The hash to keep for a new password of `name`. Raises InvalidPassword."""
    return _HASHER.hash(check_new_password(password, name))


def verify_password(kept: str | None, password: str) -> bool:
    """Whether this is the password with the hash `kept`; None: nobody's. Takes as long for a wrong one, and for nobody's."""
    possible = len(password) <= LONGEST and _is_text(password)
    try:
        _HASHER.verify(kept or _NOBODY, _normal(password) if possible else "")
    except VerifyMismatchError:
        return False
    return possible and kept is not None


def needs_rehash(kept: str) -> bool:
    """Whether the hash was made with other parameters than today's."""
    return _HASHER.check_needs_rehash(kept)


def _is_text(password: str) -> bool:
    return not any(each == "\0" or "\ud800" <= each <= "\udfff" for each in password)


def _normal(text: str) -> str:
    # The same password has other code points on other keyboards.
    return unicodedata.normalize("NFKC", text)

"""Passwords: what may become one, and that checking one costs the same whoever it is said to belong to."""

import time
import unicodedata

import pytest
from argon2 import PasswordHasher, extract_parameters

from registry import passwords
from registry.errors import InvalidPassword

GOOD = "a horse of another colour"


def test_a_password_is_recognised_and_others_are_not() -> None:
    kept = passwords.hash_password(GOOD, "alice")
    assert GOOD not in kept
    assert passwords.verify_password(kept, GOOD)
    assert not passwords.needs_rehash(kept)
    for other in ["", " ", GOOD + " ", GOOD[:-1], GOOD.upper(), GOOD + "\0", "\0", "\ud800", "x" * 2**20]:
        assert not passwords.verify_password(kept, other)
        assert not passwords.verify_password(None, other)


def test_nobody_has_the_empty_password() -> None:
    """What stands for an absent hash is never a match, nor is the text that replaces an impossible password."""
    assert not passwords.verify_password(None, "")
    kept = PasswordHasher().hash("")
    assert not passwords.verify_password(kept, "\0")


def test_the_same_hash_twice_is_not_the_same_text() -> None:
    assert passwords.hash_password(GOOD, "alice") != passwords.hash_password(GOOD, "alice")


def test_the_parameters_are_those_that_owasp_asks_for() -> None:
    for kept in (passwords.hash_password(GOOD, "alice"), passwords._NOBODY):
        found = extract_parameters(kept)
        assert (found.type.name, found.memory_cost, found.time_cost, found.parallelism) == ("ID", 19456, 2, 1)
        assert (found.salt_len, found.hash_len) == (16, 32)


def test_hashes_of_other_parameters_are_made_anew() -> None:
    former = PasswordHasher(time_cost=1, memory_cost=8192).hash(GOOD)
    assert passwords.verify_password(former, GOOD)
    assert passwords.needs_rehash(former)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_a_password_is_the_same_on_every_keyboard(form: str) -> None:
    password = "Ångström & ﬁnesse"
    kept = passwords.hash_password(password, "alice")
    assert passwords.verify_password(kept, unicodedata.normalize(form, password))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "password",
    [
        "",
        "eleven char",
        " " * 12,
        "a" * 40,
        "abab" * 10,
        "PASSWORD1234",
        "alice-in-wonderland",
        "ALICE-IN-WONDERLAND",
        "with a NUL \0 in it",
        "half of \ud83d an emoji",
        "abcdefghij k"[:11],
        GOOD * 50,
        "\ufdfa" * 100,  # 1,800 characters once they are normalised
    ],
)
def test_bad_passwords_are_refused_and_not_repeated(password: str) -> None:
    with pytest.raises(InvalidPassword) as refused:
        passwords.hash_password(password, "Alice-in-Wonderland")
    assert not password or password not in str(refused.value)


@pytest.mark.parametrize("password", ["x1y2z3" * 2, GOOD, "пароль из слов", "🐎🔋📎✨" * 3, "ab cd" * 204])
def test_long_ones_need_no_digits_and_no_signs(password: str) -> None:
    assert passwords.check_new_password(password, "alice")


def test_an_unknown_name_costs_what_a_known_one_does() -> None:
    """In work done: the same parameters (see above), and a run of the algorithm whatever the input."""
    kept = passwords.hash_password(GOOD, "alice")

    def cost(hash_: str | None, password: str) -> float:
        began = time.thread_time()
        passwords.verify_password(hash_, password)
        return time.thread_time() - began

    known = min(cost(kept, "wrong") for _ in range(5))
    for hash_, password in [(None, "wrong"), (None, "\0"), (kept, "x" * 5000), (kept, "")]:
        # Without a run of the algorithm it would be a thousandth.
        assert min(cost(hash_, password) for _ in range(3)) > known / 10

"""Which jobs a trusted publisher means: a pure function, and the rules that keep it from meaning everybody."""

from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InvalidPublisher
from registry.trusted import _like, check_claims, has_claims

JOB = {
    "sub": "repo:acme/fraud:ref:refs/heads/main",
    "repository": "acme/fraud",
    "ref": "refs/heads/main",
    "project_id": 42,
    "ref_protected": True,
    "groups": ["acme/fraud"],
    "nested": {"repository": "acme/fraud"},
    "nothing": None,
}


@pytest.mark.parametrize(
    "wanted",
    [
        {"repository": "acme/fraud"},
        {"repository": "acme/fraud", "ref": "refs/heads/main"},
        {"repository": "acme/fraud", "ref": "refs/heads/*"},
        {"repository": "acme/*"},
        {"repository": "*"},
        {"sub": "repo:acme/fraud:*"},
        {"sub": "repo:*/fraud:*:refs/*/main"},
        {"project_id": "42"},
        {"ref_protected": "true"},
    ],
)
def test_a_job_with_all_claims_is_meant(wanted: dict[str, str]) -> None:
    assert has_claims(JOB, wanted)


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"repository": "acme/fraud2"},
        {"repository": "acme/frau"},
        {"repository": "Acme/fraud"},
        {"repository": " acme/fraud"},
        {"repository": "acme/frau?"},
        {"repository": "acme/frau[d]"},
        {"repository": "acme/.*"},
        {"repository": "acme"},
        {"repository": "*/fraud/*"},
        {"repository": "acme/fraud", "ref": "refs/heads/release/*"},
        {"repository": "acme/fraud", "environment": "production"},
        {"repository": "acme/fraud", "environment": "*"},
        {"groups": "acme/fraud"},
        {"groups": "*"},
        {"nested": "*"},
        {"nothing": "*"},
        {"nothing": "None"},
        {"ref_protected": "1"},
        {"ref_protected": "True"},
    ],
)
def test_no_other_job_is_meant(wanted: dict[str, str]) -> None:
    assert not has_claims(JOB, wanted)


@given(st.text("ab/", max_size=12), st.text("ab/*", max_size=8))
def test_a_star_stands_for_any_characters_and_nothing_else_is_special(text: str, pattern: str) -> None:
    assert _like(text, pattern) == fnmatchcase(text, pattern)


def test_hostile_patterns_take_no_time() -> None:
    """With a regular expression this would take longer than the universe has been there."""
    assert not _like("a" * 500 + "b", "a*" * 250 + "c")
    assert not _like("a" * 500 + "b", "*a" * 250 + "*c*b")


@pytest.mark.parametrize(
    "claims",
    [
        {"repository": "acme/fraud"},
        {"repository": "acme/fraud", "ref": "refs/heads/*", "environment": "production"},
        {"repository_owner": "acme", "repository": "acme/*"},
        {"sub": "system:serviceaccount:training:publisher"},
        {"email": "trainer@acme.example"},
    ],
)
def test_claims_that_say_whose_job_it_is(claims: dict[str, str]) -> None:
    check_claims(claims)


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"repository": "*"},
        {"repository": "acme/*"},
        {"sub": "repo:acme/fraud:*"},
        {"ref": "refs/heads/main"},
        {"ref": "refs/heads/main", "environment": "production", "workflow": "publish"},
        {"ref": "refs/heads/main", "repository": "*"},
        {"iss": "https://issuer.example", "repository": "acme/fraud"},
        {"aud": "https://registry.example"},
        {"exp": "1", "repository": "acme/fraud"},
        {"": "x", "repository": "acme/fraud"},
        {"repository": ""},
        {"repository": "acme/\0"},
        {"repository": "acme/\ud800"},
        {"repository": "a" * 513},
        {"a" * 129: "x"},
        {f"claim-{n}": "x" for n in range(17)},
    ],
    ids=lambda claims: ascii(claims)[:40],
)
def test_claims_that_would_trust_too_many(claims: dict[str, Any]) -> None:
    with pytest.raises(InvalidPublisher):
        check_claims(claims)

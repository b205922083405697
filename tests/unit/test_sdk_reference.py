import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelyard import InvalidReference, Ref, parse_ref
from modelyard._ref import check_model

NAMES = st.from_regex(r"\A[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?\Z")
ALIASES = st.from_regex(r"\A[A-Za-z][A-Za-z0-9_-]{0,63}\Z").filter(
    lambda name: not re.fullmatch(r"none|staging|production|archived|latest|v[0-9]+", name, re.IGNORECASE)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fraud", Ref("fraud", pointer="production")),
        ("fraud@production", Ref("fraud", pointer="production")),
        ("fraud@staging", Ref("fraud", pointer="staging")),
        ("fraud@champion", Ref("fraud", pointer="champion")),
        ("fraud/3", Ref("fraud", number=3)),
        ("a.b-c_d/2147483647", Ref("a.b-c_d", number=2**31 - 1)),
        ("7/7", Ref("7", number=7)),
    ],
)
def test_every_form_of_a_reference_is_read(text: str, expected: Ref) -> None:
    assert parse_ref(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "/",
            "@",
            "/3",
            "@production",
            "fraud/",
            "fraud@",
            "fraud/0",
            "fraud/-1",
            "fraud/03",
            "fraud/3.0",
        ),
        *(
            "fraud/2147483648",
            "fraud/99999999999",
            "fraud/x",
            "fraud/3/4",
            "fraud/3@production",
            "fraud@a@b",
            "fraud/ 3",
        ),
        *(
            "fraud@latest",
            "fraud@none",
            "fraud@archived",
            "fraud@v3",
            "fraud@V3",
            "fraud@Production",
            "fraud@1st",
        ),
        *(
            "fraud@a b",
            "fraud@a\n",
            "fraud\n",
            "-fraud",
            "fraud-",
            ".fraud",
            "fr aud",
            "fr\N{CYRILLIC SMALL LETTER A}ud",
            "../fraud",
            "fraud/\N{ARABIC-INDIC DIGIT THREE}",
        ),
        *("x" * 129, "fraud@" + "x" * 65),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse_ref(text)


@given(NAMES, st.integers(1, 2**31 - 1))
def test_a_version_reference_survives_being_written_and_read(name: str, number: int) -> None:
    ref = Ref(name, number=number)
    assert parse_ref(str(ref)) == ref


@given(NAMES, ALIASES)
def test_a_pointer_reference_survives_being_written_and_read(name: str, alias: str) -> None:
    ref = Ref(name, pointer=alias)
    assert parse_ref(str(ref)) == ref


@given(st.text())
def test_any_text_is_read_or_refused_and_never_breaks_out_of_a_url(text: str) -> None:
    """What is accepted goes into request paths as it is."""
    try:
        check_model(text)
    except InvalidReference:
        return
    assert re.fullmatch(r"[A-Za-z0-9._-]+", text)
    assert text not in (".", "..")

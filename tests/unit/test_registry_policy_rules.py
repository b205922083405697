"""What policies can say: comparisons of metrics, signatures, sections of model cards, edges; without any database."""

import contextlib
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.card import has_section
from registry.checks import incompatibility
from registry.errors import InvalidExpression, InvalidInput
from registry.expressions import MAX_DEPTH, MAX_LENGTH, parse
from registry.rules import Edge, Rules, check_rules

METRICS = {"auc": 0.97, "production.auc": 0.972, "f1[test]": 0.5, "f1[test, eu]": 0.25, "val/f1-score": 0.9}


def holds(text: str) -> bool:
    return parse(text).holds(lambda metric: METRICS[str(metric)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auc >= production.auc - 0.002", True),  # as floating point 0.972 - 0.002 is more than 0.97
        ("auc > production.auc - 0.002", False),
        ("auc == .97", True),
        ("auc != 97e-2", False),
        ("1 + 2 * 3 <= 7", True),
        ("(1 + 2) * 3 < 9", False),
        ("2 - 1 - 1 == 0", True),
        ("8 / 2 / 2 == 2", True),
        ("1 / 3 * 3 == 1", True),
        ("--1 == 1", True),
        ("-auc < 0", True),
        ("f1[test] == 2 * f1[test, eu]", True),
        ('"val/f1-score" >= 0.9', True),
        ("  auc>=0.9  ", True),
    ],
)
def test_a_comparison_is_what_it_is_on_paper(text: str, expected: bool) -> None:
    assert holds(text) is expected


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("", 0),
        ("auc", 3),
        ("auc >= ", 6),
        ("auc >= 0.9 and f1 > 0", 11),
        ("auc >= 0.9 > 1", 11),
        ("auc = 1", 4),
        ("auc >= __import__('os')", 18),
        ("auc >= f(1)", 8),
        ("auc >= production.", 18),
        ("a.b.c >= 1", 3),
        ("f1[] > 1", 3),
        ("f1[a, b, c] > 1", 7),
        ("(auc > 1", 5),
        ("auc > 1e999", 6),
        ("auc > 1 # why", 8),
        ('"" > 1', 0),
        ("auc > \x00", 6),
        ("\uff41uc > 1", 0),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_stops_to(text: str, position: int) -> None:
    with pytest.raises(InvalidExpression) as caught:
        parse(text)
    assert caught.value.data["position"] == position


def test_length_and_depth_are_bounded() -> None:
    deep = MAX_DEPTH - 1
    assert parse("(" * deep + "1" + ")" * deep + " == 1")
    for text in ("(" * 200 + "1" + ")" * 200 + " == 1", "-" * 400 + "1 == 1", "a" * MAX_LENGTH + " > 1"):
        with pytest.raises(InvalidExpression):
            parse(text)


@given(st.text())
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    with contextlib.suppress(InvalidExpression):
        parse(text)


_numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(_numbers, _numbers, st.sampled_from(["+", "-", "*"]))
def test_arithmetic_is_exact(left: float, right: float, sign: str) -> None:
    expected = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__}[sign]
    result = expected(Fraction(repr(left)), Fraction(repr(right)))
    values = {"x": left, "y": right}
    comparison = parse(f"x {sign} y >= 0")
    assert comparison.holds(lambda metric: values[metric.name]) is (result >= 0)


def signature(**changed: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 4], **changed.pop("input", {})}
    output = {"name": "y", "datatype": "FP32", "shape": [-1, 2], **changed.pop("output", {})}
    return {"inputs": [tensor, *changed.pop("inputs", [])], "outputs": [output, *changed.pop("outputs", [])]}


MORE = {"name": "z", "datatype": "BOOL", "shape": [1]}


@pytest.mark.parametrize(
    ("new", "compatible"),
    [
        (signature(), True),
        (signature(input={"shape": [-1, -1]}), True),
        (signature(outputs=[MORE]), True),
        (signature(output={"shape": [8, 2]}), True),
        (signature(input={"shape": [8, 4]}), False),
        (signature(input={"shape": [-1, 5]}), False),
        (signature(input={"shape": [-1]}), False),
        (signature(output={"shape": [-1, -1]}), False),
        (signature(input={"datatype": "FP64"}), False),
        (signature(output={"datatype": "INT64"}), False),
        (signature(inputs=[MORE]), False),
        (signature(input={"name": "other"}), False),
        (signature(output={"name": "other"}), False),
    ],
)
def test_callers_of_the_holder_can_call_a_compatible_version(new: dict[str, Any], compatible: bool) -> None:
    wrong = incompatibility(signature(), new)
    assert (wrong is None) is compatible, wrong


CARD = """# Fraud

## Intended use

Card payments.

### Limits
## Empty

## Ethics ##
```
# not a heading
```
##Glued
"""


def test_a_section_counts_when_something_is_below_its_heading() -> None:
    assert has_section(CARD, "Intended use")
    assert has_section(CARD, " intended USE ")
    assert has_section(CARD, "Ethics")
    assert has_section(CARD, "Fraud")
    for heading in ("Empty", "Limits", "Glued", "not a heading", "Card payments."):
        assert not has_section(CARD, heading), heading
    assert not has_section("", "Fraud")


def test_the_first_edge_that_names_a_move_counts() -> None:
    rules = Rules([Edge("staging", "production", approvals=2), Edge("*", "prod*"), Edge("none", "staging")])
    edge = rules.edge("staging", "production")
    assert edge is not None
    assert edge.approvals == 2
    assert rules.edge("none", "production") == Edge("*", "prod*")
    assert rules.edge("archived", "staging") is None
    assert [rules.governs(to) for to in ("archived", "prod-eu", "champion")] == [True, True, False]
    assert Rules.from_json(rules.as_json()).as_json() == rules.as_json()


@pytest.mark.parametrize(
    "edge",
    [
        Edge("live", "production"),
        Edge("champion", "production"),
        Edge("*", "pro duction"),
        Edge("*", "*", who=["kim"]),
        Edge("*", "*", who=["role:king"]),
        Edge("*", "*", approvers=["group:"]),
        Edge("*", "*", approvers=["principal:\n"]),
        Edge("*", "*", checks=[{"kind": "horoscope"}]),
        Edge("*", "*", checks=[{"kind": "metric", "expression": "auc"}]),
        Edge("*", "*", checks=[{"kind": "metric", "expression": "auc > latest.auc"}]),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_set(edge: Edge) -> None:
    with pytest.raises(InvalidInput):
        check_rules(Rules([edge]))

"""What a benchmark found, for a reader (a table) and for a program (one line of JSON).

A ratio is always "larger is better": 1.0 means as good as the peer, or exactly at the limit.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result, in `unit`. Without a peer there is no ratio; without a goal it only informs."""

    name: str
    ours: float
    peer: float | None
    unit: str
    ratio: float | None
    goal: float | None
    spread: str = ""


def compare(
    name: str, unit: str, ours: Sequence[float], peer: Sequence[float], goal: float | None = None
) -> Row:
    """Medians of what both needed (seconds or bytes): ratio = peer / ours."""
    mine, theirs = median(ours), median(peer)
    spread = f"{_range(ours)} | {_range(peer)}"
    return Row(name, mine, theirs, unit, theirs / mine if mine > 0 else None, goal, spread)


def within(name: str, unit: str, ours: Sequence[float], limit: float) -> Row:
    """The median against a limit that it should not exceed: ratio = limit / ours, goal 1."""
    mine = median(ours)
    return Row(name, mine, limit, unit, limit / mine if mine > 0 else None, 1.0, f"{_range(ours)} | limit")


def inform(name: str, unit: str, ours: Sequence[float]) -> Row:
    """A median that nothing is compared with."""
    return Row(name, median(ours), None, unit, None, None, _range(ours))


def show(rows: Sequence[Row]) -> None:
    """The table."""
    print(f"{'':34} {'ours':>10} {'peer':>10} {'unit':12} {'ratio':>7} {'goal':>5}      min-max: ours | peer")
    for row in rows:
        verdict = ""
        if row.ratio is not None and row.goal is not None:
            verdict = "met" if row.ratio >= row.goal else "MISSED"
        figures = f"{_number(row.ours):>10} {_number(row.peer):>10} {row.unit:12}"
        print(
            f"{row.name:34} {figures} {_number(row.ratio):>7} {_number(row.goal):>5} {verdict:6} {row.spread}"
        )


def last_line(bench: str, rows: Sequence[Row]) -> str:
    """The result as JSON."""
    results = [
        {name: _short(value) for name, value in asdict(row).items() if name != "spread"} for row in rows
    ]
    return json.dumps({"bench": bench, "results": results})


def _range(values: Sequence[float]) -> str:
    return f"{_number(min(values))}-{_number(max(values))}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _short(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value

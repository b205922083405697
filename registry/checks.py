"""What a policy may ask of a version. Each kind of check is a function here: what it is asked of and finds is all kept.

    metric      a comparison of metrics (expressions.py), with those of a pointer's holder, or with a number
    signature   whoever calls the version that holds the pointer now can call this one
    example     inputs are recorded together with what the model answered
    format      it can be loaded in these formats only
    digests     every byte of it has been read and has its digest
    scan        a scanner has said that it is clean: metadata or a tag with that name, by default "scan", is "clean"
    age         it has been in staging for so long
    tag         it has a tag, perhaps with this value
    card        its model card has a section with this heading, and something in it

What cannot be told is not passed. Only where nothing holds the pointer there is nothing to compare with.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import defer

from registry import expressions, facts
from registry.card import has_section
from registry.database import ReadSession, WriteSession, utc_now
from registry.domain import check_pointer_name
from registry.errors import InvalidPolicy
from registry.expressions import Metric
from registry.tables import ContentRow, FileRow, PointerRow, VersionRow

CLEAN = "clean"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: `inputs` is all that it looked at."""

    check: Mapping[str, Any]
    passed: bool
    said: str
    inputs: Mapping[str, Any]


Found = tuple[bool, str, dict[str, Any]]


class Subject:
    """A version that is to be promoted to a stage or alias, and what checks may look at."""

    def __init__(self, session: ReadSession | WriteSession, version: VersionRow, to: str) -> None:
        self.session = session
        self.version = version
        self.to = to

    def holder(self, pointer: str) -> VersionRow | None:
        """The version that holds a pointer of the same model now."""
        row = self.session.get(PointerRow, (self.version.model_id, pointer))
        if row is None or row.number is None:
            return None
        return self.session.get(VersionRow, (self.version.model_id, row.number))

    def metric(self, metric: Metric) -> float | None:
        version = self.version if metric.pointer is None else self.holder(metric.pointer)
        if version is None:
            return None
        return facts.metrics_of(self.session, version, metric.dataset, metric.slice).get(metric.name)

    @cached_property
    def contents(self) -> list[tuple[str, ContentRow]]:
        of_version = FileRow.model_id == self.version.model_id, FileRow.number == self.version.number
        query = sa.select(FileRow.path, ContentRow).join(FileRow, FileRow.content_id == ContentRow.id)
        query = query.where(*of_version).order_by(FileRow.path)
        return [(path, row) for path, row in self.session.execute(query.options(defer(ContentRow.layout)))]


def evaluate(subject: Subject, check: Mapping[str, Any]) -> Finding:
    """What this check finds now."""
    passed, said, inputs = KINDS[check["kind"]](subject, check)
    return Finding(check, passed, said, inputs)


def check_check(check: Mapping[str, Any]) -> None:
    """Raise InvalidPolicy or InvalidExpression unless the check can be evaluated."""
    if check["kind"] not in KINDS:
        raise InvalidPolicy(f"A check is one of {', '.join(KINDS)}.")
    if check["kind"] == "metric":
        for metric in expressions.parse(check["expression"]).metrics():
            if metric.pointer is not None:
                check_pointer_name(metric.pointer)


def _metric(subject: Subject, check: Mapping[str, Any]) -> Found:
    comparison = expressions.parse(check["expression"])
    asked = dict.fromkeys(comparison.metrics())
    inputs: dict[str, Any] = {}
    values: dict[Metric, float] = {}
    for pointer in dict.fromkeys(metric.pointer for metric in asked if metric.pointer):
        held = subject.holder(pointer)
        inputs[f"{pointer} holds"] = held.number if held is not None else None
        if held is None:
            return True, f"Nothing holds {pointer}: there is nothing to compare with.", inputs
    for metric in asked:
        value = inputs[str(metric)] = subject.metric(metric)
        if value is None:
            return False, f"There is no metric {metric}.", inputs
        values[metric] = value
    told = ", ".join(f"{metric} is {value!r}" for metric, value in values.items())
    try:
        passed = comparison.holds(values.__getitem__)
    except ZeroDivisionError:
        return False, f"It divides by zero: {told}.", inputs
    return passed, f"{told or 'It'}{'' if passed else ', which it must not be'}.", inputs


def _signature(subject: Subject, _check: Mapping[str, Any]) -> Found:
    held = subject.holder(subject.to)
    if held is None or held.number == subject.version.number:
        return True, f"Nothing else holds {subject.to}: there is nothing to compare with.", {"holder": None}
    inputs = {"holder": held.number, "its signature": held.signature, "signature": subject.version.signature}
    if held.signature is None:
        return True, f"Version {held.number} has no signature to be compared with.", inputs
    if subject.version.signature is None:
        return False, "It has no signature.", inputs
    wrong = incompatibility(held.signature, subject.version.signature)
    return wrong is None, wrong or f"Who can call version {held.number} can call it.", inputs


def incompatibility(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Why whoever calls a model with the signature `old` cannot call one with `new`; None: they can.

    They send the inputs that they know, and read the outputs that they know: sizes of inputs may become free (-1), and there
    may be more outputs.
    """
    sides = {side: ({t["name"]: t for t in old[side]}, {t["name"]: t for t in new[side]}) for side in _SIDES}
    if more := sorted(set(sides["inputs"][1]) - set(sides["inputs"][0])):
        return f"It needs an input {more[0]!r} that nobody sends yet."
    for side, (before, now) in sides.items():
        for name, tensor in before.items():
            if name not in now:
                return f"It has no {side[:-1]} {name!r} any more."
            if now[name]["datatype"] != tensor["datatype"]:
                return f"Its {side[:-1]} {name!r} is {now[name]['datatype']}, not {tensor['datatype']}."
            narrow, wide = (tensor, now[name]) if side == "inputs" else (now[name], tensor)
            if not _fits(narrow["shape"], wide["shape"]):
                return f"Its {side[:-1]} {name!r} has shape {now[name]['shape']}, not {tensor['shape']}."
    return None


_SIDES = ("inputs", "outputs")


def _fits(narrow: list[int], wide: list[int]) -> bool:
    return len(narrow) == len(wide) and all(w in (-1, n) for n, w in zip(narrow, wide, strict=True))


def _example(subject: Subject, _check: Mapping[str, Any]) -> Found:
    path = subject.version.example
    said = (
        f"It is recorded in {path}." if path is not None else "No example was recorded: publish it with one."
    )
    return path is not None, said, {"example": path}


def _format(subject: Subject, check: Mapping[str, Any]) -> Found:
    version = subject.version
    formats = sorted({version.format, *(variant["format"] for variant in version.variants)})
    others = [each for each in formats if each not in check["allowed"]]
    said = (
        f"It is {', '.join(formats)}."
        if not others
        else f"It is {', '.join(others)}; allowed: {', '.join(check['allowed'])}."
    )
    return not others, said, {"formats": formats}


def _digests(subject: Subject, _check: Mapping[str, Any]) -> Found:
    wrong = [path for path, row in subject.contents if row.verified_at is None or row.damaged]
    # The manifest's digest stands for the paths and digests of all files, of which there may be thousands.
    inputs = {
        "manifest": subject.version.manifest_digest,
        "files": len(subject.contents),
        "unverified": wrong[:100],
    }
    if wrong or not subject.contents:
        return False, f"Nobody has seen that {', '.join(wrong[:3])} has its digest.", inputs
    return True, f"All of its {len(subject.contents)} files have the digests that they should.", inputs


def _scan(subject: Subject, check: Mapping[str, Any]) -> Found:
    name = check["name"]
    said = {**facts.tags_of(subject.session, subject.version)}
    said |= {key: str(value) for key, value in facts.metadata_of(subject.session, subject.version).items()}
    found = said.get(name)
    if found is None:
        return False, f"No scanner has looked at it: it has no {name!r}.", {name: None}
    return found == CLEAN, f"{name} is {found[:100]!r}.", {name: found[:1000]}


def _age(subject: Subject, check: Mapping[str, Any]) -> Found:
    staging = subject.session.get(PointerRow, (subject.version.model_id, "staging"))
    if staging is None or staging.number != subject.version.number:
        return False, "It is not in staging.", {"staging since": None}
    now = subject.session.scalars(sa.select(utc_now())).one()
    since, needed = staging.moved_at, timedelta(seconds=check["seconds"])
    said = f"It has been in staging for {_days(now - since)}; it must be {_days(needed)}."
    inputs = {"staging since": since.isoformat(), "now": now.isoformat()}
    return now - since >= needed, said, inputs


def _days(length: timedelta) -> str:
    return str(timedelta(seconds=int(length.total_seconds())))


def _tag(subject: Subject, check: Mapping[str, Any]) -> Found:
    name, wanted = check["name"], check.get("value")
    found = facts.tags_of(subject.session, subject.version).get(name)
    inputs = {name: None if found is None else found[:1000]}
    if found is None:
        return False, f"It has no tag {name!r}.", inputs
    passed = wanted is None or found == wanted
    return passed, f"The tag {name!r} is {found[:100]!r}{'' if passed else f', not {wanted!r}'}.", inputs


def _card(subject: Subject, check: Mapping[str, Any]) -> Found:
    section = check["section"]
    passed = has_section(facts.card_of(subject.session, subject.version), section)
    said = f"Its model card says {'something' if passed else 'nothing'} under {section!r}."
    return passed, said, {"fact revision": subject.version.fact_revision}


KINDS: Mapping[str, Callable[[Subject, Mapping[str, Any]], Found]] = {
    "metric": _metric,
    "signature": _signature,
    "example": _example,
    "format": _format,
    "digests": _digests,
    "scan": _scan,
    "age": _age,
    "tag": _tag,
    "card": _card,
}

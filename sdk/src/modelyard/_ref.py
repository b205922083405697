"""References: how people name a version.

fraud/3             version 3 of fraud
fraud@production    the version that a stage or alias of fraud points to
fraud               the same as fraud@production
"""

import re
from dataclasses import dataclass

from modelyard._errors import InvalidReference

MAX_NUMBER = 2**31 - 1
STAGE_POINTERS = ("production", "staging")

_MODEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
# "v3" would read like a version number, and the rest like stages that hold any number of versions, or none.
_NO_ALIAS = re.compile(r"none|archived|latest|staging|production|v[0-9]+", re.IGNORECASE)
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class Ref:
    """A parsed reference. Exactly one of `number` and `pointer` is set. `str(ref)` parses to the same Ref again."""

    model: str
    number: int | None = None
    pointer: str | None = None

    def __str__(self) -> str:
        return f"{self.model}/{self.number}" if self.number is not None else f"{self.model}@{self.pointer}"


def parse_ref(text: str) -> Ref:
    """Read `model`, `model/3` or `model@pointer`; raise InvalidReference for anything else."""
    separator = "/" if "/" in text else "@"
    model, found, rest = text.partition(separator)
    check_model(model)
    if not found:
        return Ref(model, pointer="production")
    return (
        Ref(model, number=_number(text, rest))
        if separator == "/"
        else Ref(model, pointer=check_pointer(rest))
    )


def check_model(name: str) -> str:
    """Return `name` if it can be a model's, else raise InvalidReference."""
    if not _MODEL.fullmatch(name):
        raise InvalidReference(
            f"{name!r} cannot be a model's name: 1 to 128 letters, digits, dots, hyphens and underscores, starting and "
            "ending with a letter or digit. A reference is `model`, `model/3` or `model@pointer`."
        )
    return name


def check_pointer(name: str) -> str:
    """Return `name` if it can be a pointer's (production, staging or an alias), else raise InvalidReference."""
    if name not in STAGE_POINTERS and (not _ALIAS.fullmatch(name) or _NO_ALIAS.fullmatch(name)):
        raise InvalidReference(
            f"{name!r} cannot be a pointer: expected production, staging or an alias (1 to 64 letters, digits, hyphens "
            "and underscores, starting with a letter), as in `fraud@production`."
        )
    return name


def _number(text: str, digits: str) -> int:
    if not _NUMBER.fullmatch(digits) or int(digits) > MAX_NUMBER:
        raise InvalidReference(
            f"{text!r} names no version: after the slash comes its number, as in `fraud/3`."
        )
    return int(digits)

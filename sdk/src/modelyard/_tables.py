"""What people see: tables and short sentences on stdout. Programs use --json.

Names, reasons and descriptions were written by others: control characters in them are replaced, so that nothing in a
registry can move the cursor, change colours or hide text in somebody's terminal.
"""

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelyard._types import Model, Move, Promotion, Signature, Version

_UNBOUNDED = 100_000


def printable(text: str) -> str:
    """`text` on one line without anything that a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text.replace("\n", " "))


def console() -> Console:
    # What goes to a file or pipe is never cut or folded; what goes to a terminal fits it.
    return Console(
        width=None if sys.stdout.isatty() else _UNBOUNDED, highlight=False, markup=False, emoji=False
    )


def print_models(models: Iterable[Model]) -> None:
    rows = [
        [
            model.name,
            _or_dash(model.latest),
            _or_dash(_held(model, "production")),
            _or_dash(_held(model, "staging")),
            ", ".join(
                f"{p.name}={p.number}" for p in model.pointers if p.kind == "alias" and p.number is not None
            ),
            when(model.created_at),
        ]
        for model in models
    ]
    print_table(["MODEL", "LATEST", "PRODUCTION", "STAGING", "ALIASES", "CREATED"], rows, "No models yet.")


def print_versions(versions: Iterable[Version]) -> None:
    rows = [
        [
            str(version.number),
            version.stage,
            ", ".join(version.aliases),
            version.format,
            size(version.size),
            _metrics(version),
            when(version.created_at),
            version.created_by,
        ]
        for version in versions
    ]
    columns = ["VERSION", "STAGE", "ALIASES", "FORMAT", "SIZE", "METRICS", "CREATED", "BY"]
    print_table(columns, rows, "No versions yet.")


def print_found(versions: Iterable[Version]) -> None:
    rows = [
        [
            f"{version.model}/{version.number}",
            version.stage,
            ", ".join(version.aliases),
            version.format,
            _metrics(version),
            when(version.created_at),
            version.created_by,
        ]
        for version in versions
    ]
    print_table(["VERSION", "STAGE", "ALIASES", "FORMAT", "METRICS", "CREATED", "BY"], rows, "Nothing found.")


def print_history(moves: Iterable[Move], otherwise: str) -> None:
    rows = [
        [
            when(move.at),
            move.pointer,
            _or_dash(move.from_number),
            _or_dash(move.to_number),
            move.kind,
            str(move.generation),
            move.actor,
            move.reason,
        ]
        for move in moves
    ]
    columns = ["WHEN", "POINTER", "FROM", "TO", "KIND", "GENERATION", "BY", "REASON"]
    print_table(columns, rows, otherwise)


def print_model(model: Model) -> None:
    print_facts(
        [
            ("Model", model.name),
            ("Description", model.description),
            ("Created", when(model.created_at)),
            ("Latest version", _or_dash(model.latest)),
        ]
    )
    rows = [
        [p.name, p.kind, _or_dash(p.number), str(p.generation), when(p.moved_at), p.moved_by]
        for p in model.pointers
    ]
    print_table(
        ["POINTER", "KIND", "VERSION", "GENERATION", "MOVED", "BY"], rows, "Nothing points to a version yet."
    )


def print_version(version: Version) -> None:
    print_facts(
        [
            ("Version", f"{version.model}/{version.number}"),
            ("Stage", version.stage),
            ("Aliases", ", ".join(version.aliases)),
            ("Digest", version.digest),
            (
                "Format",
                ", ".join(dict.fromkeys([version.format, *(each.format for each in version.variants)])),
            ),
            ("Size", size(version.size)),
            ("Description", version.description),
            ("Metrics", _metrics(version)),
            ("Tags", ", ".join(f"{name}={value}" for name, value in version.tags.items())),
            ("Created", f"{when(version.created_at)} by {version.created_by}"),
        ]
    )
    if version.signature:
        print_table(["", "TENSOR", "DATATYPE", "SHAPE"], _tensors(version.signature), "")
    files = [[file.path, size(file.size), file.digest] for file in version.files]
    print_table(["FILE", "SIZE", "DIGEST"], files, "")


def promotion_told(promotion: Promotion, *, timed: bool = False) -> str:
    """One sentence about what a promotion or rollback did; `timed`: it is not for now."""
    name, pointer = promotion.model, promotion.pointer
    if promotion.request is not None:
        return printable(
            f"{name}/{promotion.number} was not promoted yet: request {promotion.request} "
            f"{'waits for its time' if timed else 'has to be approved'} (modelyard request show {name} {promotion.request})"
        )
    if pointer is None:
        told = f"{name}/{promotion.number} is now in stage {promotion.stage}"
    elif pointer.number is None:
        told = f"{name}@{pointer.name} points to nothing now (generation {pointer.generation})"
    else:
        told = f"{name}@{pointer.name} is now {name}/{pointer.number} (generation {pointer.generation})"
    return printable(told if promotion.moved else told.replace(" now", " already", 1))


def counted(count: int, noun: str) -> str:
    """How many there are: 1 approval, 2 approvals."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def size(count: float) -> str:
    """A number of bytes for people: 1 kB is 1000 bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], otherwise: str) -> None:
    if not rows:
        console().print(otherwise)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console().print(table)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts:
        if value:
            table.add_row(name, Text(printable(value)))
    console().print(table)
    console().print()


def _tensors(signature: Signature) -> list[list[str]]:
    sides = (("input", signature.inputs), ("output", signature.outputs))
    return [
        [side, tensor.name, tensor.datatype, str(list(tensor.shape))]
        for side, tensors in sides
        for tensor in tensors
    ]


def _held(model: Model, pointer: str) -> int | None:
    return next((each.number for each in model.pointers if each.name == pointer), None)


def _metrics(version: Version) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in version.metrics.items())


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def when(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")

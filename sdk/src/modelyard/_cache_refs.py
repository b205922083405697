"""Which version a reference named when it was last seen, and which references are pinned.

seen/<key>.json             {"registry", "ref", "at", "version"}     fraud/3 for ever, fraud@production as it was then
pins/<64 hex>.<key>.json    {"registry", "ref", "at"}                whoever pins a pointer pins the version it was seen at

A key is the SHA-256 of registry and reference: two registries may both have a fraud/3.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelyard._cache_layout import Layout, name_of, read_json
from modelyard._errors import NotCached
from modelyard._manifest import sha256
from modelyard._ref import Ref, parse_ref
from modelyard._types import Version


@dataclass(frozen=True, slots=True)
class Seen:
    """`ref` named `version` when the `registry` was asked at the time `at`. A pointer may have moved since."""

    registry: str
    ref: str
    at: datetime
    version: Version


class References:
    """What is remembered about the references of one registry."""

    def __init__(self, layout: Layout, registry: str) -> None:
        self._layout = layout
        self._registry = registry

    def remember(self, ref: str | Ref, version: Version) -> None:
        """Note that the registry has just answered `version` for `ref`."""
        facts = dataclasses.asdict(version) | {"created_at": version.created_at.isoformat()}
        with self._layout.locked():
            for name in dict.fromkeys((_text(ref), f"{version.model}/{version.number}")):
                path = self._layout.seen / f"{self._key(name)}.json"
                self._layout.write_json(path, self._note(name) | {"version": facts})

    def last_seen(self, ref: str | Ref) -> Seen:
        """What `ref` named last; raises NotCached if it was never seen."""
        seen = _read_seen(self._layout.seen / f"{self._key(_text(ref))}.json")
        if seen is None or (seen.registry, seen.ref) != (self._registry, _text(ref)):
            raise NotCached(
                f"{_text(ref)!r} was never fetched from {self._registry or 'the registry'} into this cache: "
                f"run `modelyard pull {_text(ref)}` while the registry can be reached."
            )
        return seen

    def pin(self, ref: str | Ref) -> str:
        """Keep the version that `ref` named last, in place of what it was pinned to; returns its digest.

        Raises NotCached if that version is not in the cache.
        """
        digest = self.last_seen(ref).version.digest
        with self._layout.locked():
            if not self._layout.version(name_of(digest)).is_dir():
                raise NotCached(f"{_text(ref)} is not in the cache: run `modelyard pull {_text(ref)}` first.")
            self._remove_pins(ref)
            path = self._layout.pins / f"{name_of(digest)}.{self._key(_text(ref))}.json"
            self._layout.write_json(path, self._note(_text(ref)))
        return digest

    def unpin(self, ref: str | Ref) -> bool:
        """Let what `ref` was pinned to be evicted; whether there was such a pin."""
        with self._layout.locked():
            return self._remove_pins(ref)

    def _remove_pins(self, ref: str | Ref) -> bool:
        found = list(self._layout.pins.glob(f"*.{self._key(_text(ref))}.json"))
        for path in found:
            path.unlink()
        return bool(found)

    def _note(self, ref: str) -> dict[str, Any]:
        return {"registry": self._registry, "ref": ref, "at": datetime.now(UTC).isoformat()}

    def _key(self, ref: str) -> str:
        return name_of(sha256(f"{self._registry}\n{ref}".encode()))


def all_seen(layout: Layout) -> Iterator[Seen]:
    """Everything that is remembered, of all registries, in no particular order."""
    for path in layout.seen.glob("*.json"):
        if seen := _read_seen(path):
            yield seen


def pinned_names(layout: Layout) -> set[str]:
    """Of versions that are pinned: the 64 hexadecimal digits of their digests."""
    return {path.name.partition(".")[0] for path in layout.pins.glob("*.json")}


def _text(ref: str | Ref) -> str:
    return str(parse_ref(ref) if isinstance(ref, str) else ref)


def _read_seen(path: Path) -> Seen | None:
    content = read_json(path)
    try:
        return Seen(
            registry=content["registry"],
            ref=content["ref"],
            at=datetime.fromisoformat(content["at"]),
            version=Version.from_wire(content["version"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None

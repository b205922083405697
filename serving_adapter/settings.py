"""What the adapter is told at its start. The command line (cli.py) is the only place that fills it in."""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelyard import Ref, parse_ref

from serving_adapter.runtimes import FORMATS


@dataclass(frozen=True, slots=True)
class Following:
    """Serve what `ref` names under the name `name`."""

    name: str
    ref: Ref

    @classmethod
    def parse(cls, text: str) -> "Following":
        """Read REF or NAME=REF; raise modelyard.InvalidReference."""
        name, separator, ref = text.rpartition("=")
        parsed = parse_ref(ref)
        return cls(parse_ref(name).model if separator else parsed.model, parsed)


def half_of_memory() -> int:
    """Half of the machine's memory, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def usable_cpus() -> int:
    """Of the machine's CPUs, how many this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Settings:
    """`models` empty means: the production version of every model in the registry.

    `registry` None means: as the SDK finds it, which also finds the token; it never passes through here. `name`: what this
    adapter is called where the registry shows who runs a model.
    """

    cache_dir: Path
    registry: str | None = None
    models: tuple[Following, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8080
    formats: Mapping[str, str] = field(default_factory=lambda: dict(FORMATS))
    prefer: tuple[str, ...] = ()
    trusted_types: tuple[str, ...] = ()
    load_timeout_s: float = 60.0
    load_memory_bytes: int = field(default_factory=half_of_memory)
    threads: int = field(default_factory=usable_cpus)
    max_queue: int = 512
    max_body_bytes: int = 64 * 2**20
    drain_s: float = 0.5
    stop_timeout_s: float = 20.0
    poll_s: float = 60.0
    name: str | None = None

    @property
    def reported_name(self) -> str:
        """What the registry is told that this adapter is called: as was said, or host and port."""
        name = re.sub(r"[^A-Za-z0-9._:-]", "-", self.name or f"{socket.gethostname()}:{self.port}")
        return name.lstrip(".:-_")[:128] or "adapter"

    @property
    def preferred_formats(self) -> tuple[str, ...]:
        """Every format that can be served, best first."""
        return (*self.prefer, *(name for name in self.formats if name not in self.prefer))

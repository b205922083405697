"""Artifacts: ours beside plain boto3 and MLflow's proxied artifacts, in one run, against one Ceph RGW.

    python -m benchmarks.artifacts [--size 1GiB] [--rounds 3] [--only upload,download,files,second,memory]

Starts everything itself on loopback (see _stack.py) and removes it at the end, also on Ctrl-C. Table on stdout, progress
on stderr. Last line: JSON, where a larger ratio is always better. docs/benchmarks.md says how to read it.
"""

import argparse
import contextlib
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import boto3
import modelyard

from benchmarks import _parts
from benchmarks._report import Row, last_line, show
from benchmarks._stack import Servers, servers

PARTS = ("upload", "download", "files", "second", "memory")
WITH_MLFLOW = {"upload", "download", "files"}
Measure = Callable[[Servers, int, int], dict[str, list[Row]]]
# transfers measures two parts: what is downloaded must have been uploaded
MEASURES: dict[Measure, set[str]] = {
    _parts.transfers: {"upload", "download"},
    _parts.folder: {"files"},
    _parts.second: {"second"},
    _parts.memory: {"memory"},
}
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
SMALLEST = 1 << 20


def run(size: int, rounds: int, parts: set[str]) -> list[Row]:
    """The rows of the chosen parts; each is the median of `rounds`."""
    rows: list[Row] = []
    with servers(with_mlflow=bool(parts & WITH_MLFLOW)) as on:
        print(machine(on))
        for measure, covers in MEASURES.items():
            if covers & parts:
                found = measure(on, size, rounds)
                rows += [row for part in PARTS if part in parts for row in found.get(part, [])]
    return rows


def machine(on: Servers) -> str:
    """What all this ran on."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    ceph = subprocess.run(["ceph", "--version"], check=True, capture_output=True, text=True).stdout.split()[2]
    return (
        f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"Linux {platform.release()}\n"
        f"Python {platform.python_version()}, modelyard {modelyard.__version__}, Ceph {ceph} (memstore), "
        f"boto3 {boto3.__version__}, MLflow {on.mlflow.version if on.mlflow else 'not started'}"
    )


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=_count, default=3)
    parser.add_argument("--size", type=_size, default="1GiB", help="of the large file; at least 1MiB")
    parser.add_argument("--only", type=_chosen, default=",".join(PARTS), help="parts, separated by commas")
    given = parser.parse_args()
    _hear_signals()
    try:
        rows = run(given.size, given.rounds, given.only)
    except KeyboardInterrupt:
        print("interrupted; everything is stopped and removed", file=sys.stderr)
        return 130
    show(rows)
    print(last_line("artifacts", rows))
    return 0


def _hear_signals() -> None:
    """Both end the run in the same orderly way; a shell that starts it in the background has SIGINT ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (count := int(text)) > 0:
            return count
    raise argparse.ArgumentTypeError("at least 1")


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)(KiB|MiB|GiB)", text)
    if not match or (size := int(match[1]) * UNITS[match[2]]) < SMALLEST:
        raise argparse.ArgumentTypeError("a size is given as 64MiB or 1GiB, and is 1MiB at least")
    return size


def _chosen(text: str) -> set[str]:
    if unknown := set(text.split(",")) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: parts are {', '.join(PARTS)}")
    return set(text.split(","))


if __name__ == "__main__":
    sys.exit(main())

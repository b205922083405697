"""The registry's own speed: what its guards cost, how soon a watcher hears of a commit, calls beside MLflow's, searches of much. On PostgreSQL,
and where it matters on SQLite.

    python -m benchmarks.registry [--rounds 200] [--only create|feed|throughput|search]

Starts everything itself on loopback and removes it at the end, also on Ctrl-C. Table on stdout, progress on stderr. Last
line: JSON, where a larger ratio is always better. docs/benchmarks.md says how to read it.
"""

import argparse
import os
import platform
import secrets
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks._feed import feed
from benchmarks._guarding import guarding
from benchmarks._report import Row, last_line, show
from benchmarks._searching import searching
from benchmarks._stack import as_context
from benchmarks._throughput import throughput
from deploy.local import TOKENS
from tests.servers.postgres import Postgres, postgres

PARTS = ("create", "feed", "throughput", "search")


def run(rounds: int, parts: set[str]) -> list[Row]:
    """The rows of the chosen parts."""
    token = secrets.token_urlsafe()
    os.environ.update(dict.fromkeys(TOKENS, token))
    rows: list[Row] = []
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelyard-bench-")))
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, PostgreSQL",
            file=sys.stderr,
        )
        database: Postgres = stack.enter_context(as_context(postgres))
        if "create" in parts:
            rows += guarding(home, database.new_database, rounds, token)
        if "feed" in parts:
            rows += feed(home, database.new_database, max(rounds // 2, 1), token)
        if "throughput" in parts:
            rows += throughput(home, database.new_database, rounds, token)
        if "search" in parts:
            rows += searching(home, database.new_database, rounds, token)
    return rows


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200, help="calls of each kind")
    parser.add_argument("--only", choices=PARTS, action="append", help="of the parts")
    given = parser.parse_args()
    try:
        rows = run(given.rounds, set(given.only or PARTS))
    except KeyboardInterrupt:
        print("interrupted; everything is stopped and removed", file=sys.stderr)
        return 130
    show(rows)
    print(last_line("registry", rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

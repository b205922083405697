"""`make soak`: the reliability tests in their long form. Prints one line per run; ends with 1 at the first violation.

    python -m tests.reliability.soak [--minutes 10]

Crashes with 200 uploads at once, in turns on SQLite with disk and on PostgreSQL with S3, until the time is over; then every
single call to database and store is made to fail (in CI: one of 37), and 200 long runs of random calls are compared with a plain
model of the registry (in CI: 3).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tests.conftest  # noqa: F401 - the token of every test
from tests.reliability.crashes import Plan, RcloneStore, crash
from tests.servers.postgres import Postgres

# 200 uploads at once. Few processes that live for a while: on two cores, many that live for a moment do nothing but start.
PLAN = Plan(publishers=4, threads=50, kills=100, commits=100, life_s=20.0, witnesses=4, timeout_s=1800)
MINUTES = "MODELYARD_SOAK_MINUTES"


def test_a_round_of_the_soak(postgres: Postgres, s3_credentials: tuple[str, str]) -> None:
    """Not collected by the suite, for its file is not called test_*."""
    until = time.monotonic() + 60 * float(os.environ[MINUTES])
    while time.monotonic() < until:
        with tempfile.TemporaryDirectory(prefix="modelyard-soak-") as folder:
            home = Path(folder)
            url = f"sqlite:///{home / 'registry.db'}"
            _tell("SQLite, disk", crash(PLAN, home, database_url=url, storage_url=(home / "blobs").as_uri()))
        with tempfile.TemporaryDirectory(prefix="modelyard-soak-") as folder:
            store = RcloneStore(Path(folder), *s3_credentials)
            url = postgres.new_database()
            _tell(
                "PostgreSQL, S3",
                crash(PLAN, Path(folder), database_url=url, storage_url=store.url, store=store),
            )


def _tell(where: str, outcome: object) -> None:
    sys.stdout.write(f"\n{where}: {outcome}\n")
    sys.stdout.flush()


def main() -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(description="The reliability tests, in their long form.")
    parser.add_argument("--minutes", type=float, default=10, help="of crashes, at least one round")
    minutes = parser.parse_args().minutes
    folder = Path(__file__).parent
    environment = os.environ | {
        MINUTES: str(minutes),
        "MODELYARD_FAULT_STRIDE": "1",
        "MODELYARD_MACHINE_RUNS": "200",
    }
    # pytest's fixtures start the servers, as in every other test
    pytest = [sys.executable, "-m", "pytest", "-s", "-x", "--no-cov", "-p", "no:cacheprovider", "--timeout=0"]
    two_at_once = ["-n", "2", "--dist", "worksteal"]
    machine = folder.parent / "integration" / "test_registry_machine.py"
    for what, how in ((folder / "soak.py", []), (folder, two_at_once), (machine, two_at_once)):
        done = subprocess.run([*pytest, *how, str(what)], env=environment, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())

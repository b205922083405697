"""The cache under many real processes, killed at any moment: what one of them was given is intact, and stays so."""

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from modelyard._cache import Cache

LIMIT_BYTES = 150_000
WORKERS, KILLS = 4, 8

# Versions of three to five files out of twelve, so that most share some with others. Bytes come from their names.
WORKER = f"""
import hashlib, random, sys, time
from datetime import UTC, datetime
from pathlib import Path
from modelyard import File, Version
from modelyard._cache import Cache
from modelyard._manifest import manifest_digest

def content(number):
    return hashlib.sha256(str(number).encode()).digest() * (400 + 100 * number)

def make(number):
    chosen = random.Random(number).sample(range(12), random.Random(number).randint(3, 5))
    contents = {{f"d{{n % 2}}/{{n}}": content(n) for n in chosen}}
    files = tuple(File(p, len(c), "sha256:" + hashlib.sha256(c).hexdigest()) for p, c in contents.items())
    version = Version("m", number, manifest_digest(files), "files", (), None, None, "", {{}}, {{}}, files,
                      sum(f.size for f in files), "none", (), datetime.now(UTC), "me")
    return version, contents

def download(version, files, private):
    for file in files:
        target = private / "content" / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as out:
            for _ in range(4):  # so that half files exist
                out.write(content(int(file.path[3:]))[out.tell() : out.tell() + file.size // 4])
                out.flush()
            out.write(content(int(file.path[3:]))[out.tell() :])
    return private / "content"

def check(directory, contents, when):
    found = {{p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}}
    if found != contents:
        sys.exit(f"{{when}}: {{sorted(found)}} instead of {{sorted(contents)}}")

chance = random.Random(int(sys.argv[2]))
cache = Cache(Path(sys.argv[1]), registry="r", limit_bytes={LIMIT_BYTES})
cache.prepare()
print("ready", flush=True)
while True:
    version, contents = make(1 + chance.randrange(8))
    hold = cache.hold(version.digest)
    directory = cache.fetch(version, download)
    check(directory, contents, "when returned")
    cache.refs.remember(f"m/{{version.number}}", version)
    if chance.random() < 0.2:
        cache.evict(chance.choice([0, {LIMIT_BYTES} // 2]))
    check(directory, contents, "while held")
    hold.close()
    print(version.number, flush=True)
"""


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start(stack: ExitStack, root: Path, seed: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WORKER, str(root), str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    stack.callback(process.communicate)
    stack.callback(process.kill)
    return process


def test_processes_that_fetch_evict_and_die_do_not_harm_each_other(
    tmp_path: Path, processes: ExitStack
) -> None:
    root, chance = tmp_path / "cache", random.Random(1)  # noqa: S311 - no secret
    running = [start(processes, root, seed) for seed in range(WORKERS)]
    for killed in range(KILLS):
        victim = chance.randrange(WORKERS)
        for process in (running[victim], running[(victim + 1) % WORKERS]):  # both have come some way
            for _ in range(chance.randint(1, 5)):
                assert process.stdout is not None
                assert process.stderr is not None
                assert process.stdout.readline(), process.stderr.read()
        running[victim].kill()
        assert running[victim].wait(30) == -9
        running[victim] = start(processes, root, WORKERS + killed)
    for process in running:
        assert process.stdout is not None
        for _ in range(3):  # nobody waits for what a dead one had
            assert process.stdout.readline()
        process.kill()
        assert process.wait(30) == -9
    check_books(Cache(root, limit_bytes=LIMIT_BYTES))


def check_books(cache: Cache) -> None:
    cache.evict()
    assert cache.bytes_taken() <= LIMIT_BYTES
    entries = cache.entries()
    assert not any(entry.in_use or entry.pinned for entry in entries)
    assert [cache.damaged(entry.digest) for entry in entries] == [None] * len(entries)
    assert list((cache.root / "held").iterdir()) == []
    cache.evict(0)
    assert cache.bytes_taken() == 0
    left = [path for path in cache.root.rglob("*") if path.is_file() and path.parent.name != "seen"]
    assert {path.suffix or path.name for path in left} <= {"lock", ".lock"}


def test_what_a_process_holds_is_free_once_it_is_killed(tmp_path: Path, processes: ExitStack) -> None:
    holder = """
import sys, time
from pathlib import Path
from modelyard._cache import Cache
cache = Cache(Path(sys.argv[1]), limit_bytes=0)
cache.prepare()
hold = cache.hold("sha256:" + "0" * 64)
(Path(sys.argv[1]) / "versions" / ("0" * 64)).mkdir()
print("held", flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", holder, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    processes.callback(process.communicate)
    processes.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    cache = Cache(tmp_path, limit_bytes=-1)  # -1: nothing is little enough
    assert cache.evict() == ()
    process.kill()
    process.wait(30)
    assert cache.evict() == ("sha256:" + "0" * 64,)

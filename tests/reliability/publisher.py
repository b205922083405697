"""A process that publishes with the SDK until it is killed, and notes what was acknowledged: one durable line each.

    python -m tests.reliability.publisher URLS NOTES MODELS THREADS PACK

Half of the files are the same in all versions, half are nobody else's, and some versions have a file of several packs.
"""

import hashlib
import json
import os
import random
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import modelyard
from modelyard import _packs, _upload

from tests.reliability.leash import end_with_parent


def main(urls: list[str], notes: Path, models: int, threads: int, pack: int) -> None:
    """Publish for ever in so many threads."""
    end_with_parent()
    _packs.PACK = _packs.PART = pack
    vars(_upload)["PACK"] = pack
    workers = [
        threading.Thread(target=_publish_for_ever, args=(urls, notes, models, pack)) for _ in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _publish_for_ever(urls: list[str], notes: Path, models: int, pack: int) -> None:
    chance = random.Random()  # noqa: S311 - chance, no secret
    while True:
        url = chance.choice(urls)
        if not _listens(url):
            # One that is just starting gets nowhere while hundreds knock at its door.
            time.sleep(chance.uniform(0.1, 1.0))
            continue
        model = f"m{chance.randrange(models)}"
        files = _files(chance, pack)
        with (
            tempfile.TemporaryDirectory(dir=notes.parent / "scratch") as folder,
            modelyard.Client(url, timeout_s=30) as client,
        ):
            for path, content in files.items():
                (Path(folder) / path).write_bytes(content)
            try:
                version = client.register(model, folder, format="files")
            except modelyard.ModelyardError as error:
                _note(notes.with_suffix(".failed"), {"error": f"{type(error).__name__}: {error}"})
                continue
        digests = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
        _note(notes, {"model": model, "number": version.number, "digest": version.digest, "files": digests})


def _listens(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def _files(chance: random.Random, pack: int) -> dict[str, bytes]:
    files = {"shared": b"shared %d" % chance.randrange(4), "own": chance.randbytes(200), "empty": b""}
    if chance.random() < 0.3:
        # the same beginning, so that later versions find chunks of earlier ones
        files["large"] = random.Random(1).randbytes(2 * pack) + chance.randbytes(pack)  # noqa: S311
    return files


def _note(file: Path, what: dict[str, object]) -> None:
    line = json.dumps(what).encode() + b"\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1].split(","), Path(sys.argv[2]), *map(int, sys.argv[3:6]))

"""The servers of one run, all on loopback, gone with everything they stored when the context ends.

our SDK ──HTTP──> registry ──> PostgreSQL          each round has a registry, database and bucket of its own:
   └──presigned──────┴──────> Ceph RGW             nothing of an earlier round can be found again
boto3 ───────────────────────────┤
MLflow's client ─> mlflow server ┘
"""

import inspect
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import modelyard

from benchmarks._mlflow import Mlflow, mlflow
from deploy.local import TOKENS
from tests.servers import ceph
from tests.servers.postgres import Postgres, postgres
from tests.servers.processes import daemons
from tests.servers.registry import Registry
from tests.servers.s3 import NO_CEPH, S3Server, s3_credentials

# memory-backed, and no more than the machine has; deleted objects are swept by clear(), and at no other moment
CEPH = {
    "memstore_device_bytes": str(14 << 30),
    "rgw_gc_obj_min_wait": "0",
    "rgw_gc_processor_period": "86400",
}
VERIFIED_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Servers:
    """What lives as long as the run: the object store, PostgreSQL and MLflow. `home` is for files of any kind."""

    home: Path
    store: S3Server
    postgres: Postgres
    mlflow: Mlflow | None
    mlflow_bucket: str
    ceph_conf: Path

    @property
    def client_home(self) -> Path:
        """MODELYARD_HOME of the SDK: its cache."""
        return self.home / "client"

    def clear(self, bucket: str) -> None:
        """Delete every object of a bucket, and wait until Ceph has freed the memory."""
        client = self.store.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for entry in page.get("Contents", ()):
                client.delete_object(Bucket=bucket, Key=entry["Key"])
        for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()):
            client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        client.close()
        sweep = ["gc", "process", "--include-all", "-n", ceph.GATEWAY]
        subprocess.run(
            ["radosgw-admin", "--conf", str(self.ceph_conf), *sweep], check=True, capture_output=True
        )

    def stored(self, bucket: str) -> int:
        """Bytes of all objects in a bucket."""
        client = self.store.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        total = sum(entry["Size"] for page in pages for entry in page.get("Contents", ()))
        client.close()
        return total


class Counter:
    """A Progress that keeps the highest number of bytes moved."""

    moved = 0

    def __call__(self, done: int, _total: int) -> None:
        self.moved = max(self.moved, done)


@dataclass(frozen=True)
class Ours:
    """A registry that has just started, and a client of it."""

    registry: Registry
    client: modelyard.Client
    bucket: str
    name = "ours"

    @property
    def pid(self) -> int:
        """The registry's process."""
        assert self.registry.process  # noqa: S101 - it was started before this was made
        return self.registry.process.pid

    def upload(self, path: Path) -> tuple[float, modelyard.Version]:
        """Seconds of Client.register, hashing included, and the version."""
        begun = time.perf_counter()
        version = self.client.register("bench", path)
        return time.perf_counter() - begun, version

    def upload_counting(self, path: Path) -> tuple[float, modelyard.Version, int]:
        """The same, and the bytes that were sent."""
        counted = Counter()
        begun = time.perf_counter()
        version = self.client.register("bench", path, progress=counted)
        return time.perf_counter() - begun, version, counted.moved

    def download(self, version: modelyard.Version, dest: Path) -> float:
        """Seconds of Client.download, which verifies what it fetched."""
        begun = time.perf_counter()
        self.client.download(version, dest)
        return time.perf_counter() - begun

    def pull(self, version: modelyard.Version) -> tuple[float, int]:
        """Seconds of Client.download into or from the cache, and the bytes that were fetched."""
        counted = Counter()
        begun = time.perf_counter()
        self.client.download(version, progress=counted)
        return time.perf_counter() - begun, counted.moved

    def wait_verified(self, version: modelyard.Version) -> float:
        """Wait until the registry itself has checked the version's bytes; returns the seconds."""
        begun = time.perf_counter()
        ref = f"{version.model}/{version.number}"
        while not getattr(self.client.resolve(ref), "verified", True):
            if time.perf_counter() - begun > VERIFIED_TIMEOUT_S:
                raise TimeoutError(f"{ref} is not verified after {VERIFIED_TIMEOUT_S:g} s")
            time.sleep(0.05)
        return time.perf_counter() - begun


class Boto3:
    """upload_file and download_file with boto3's defaults, into a bucket."""

    name = "boto3"

    def __init__(self, store: S3Server, bucket: str) -> None:
        self._client = store.client()
        self._bucket = bucket

    def upload(self, path: Path) -> tuple[float, str]:
        begun = time.perf_counter()
        self._client.upload_file(str(path), self._bucket, path.name)
        return time.perf_counter() - begun, path.name

    def download(self, key: str, dest: Path) -> float:
        dest.mkdir()
        begun = time.perf_counter()
        self._client.download_file(self._bucket, key, str(dest / key))
        return time.perf_counter() - begun


@contextmanager
def servers(*, with_mlflow: bool = True) -> Iterator[Servers]:
    """Start Ceph, PostgreSQL and MLflow, which takes longest. RuntimeError where Ceph is not installed."""
    if ceph.missing():
        raise RuntimeError(NO_CEPH)
    ceph.GLOBAL.update(CEPH)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelyard-bench-")))
        os.environ["MODELYARD_HOME"] = str(home / "client")
        os.environ.update(dict.fromkeys(TOKENS, secrets.token_urlsafe()))
        access_key, secret_key = stack.enter_context(as_context(s3_credentials))
        _say(f"starting Ceph, PostgreSQL{' and MLflow' if with_mlflow else ''} …")
        (home / "ceph").mkdir()
        running = stack.enter_context(daemons(home / "ceph"))
        endpoint = ceph.start(home / "ceph", running, access_key=access_key, secret_key=secret_key)
        store = S3Server(endpoint, access_key=access_key, secret_key=secret_key)
        database: Postgres = stack.enter_context(as_context(postgres))
        bucket = store.new_bucket()
        peer = None
        if with_mlflow:
            url = database.new_database()
            peer = stack.enter_context(mlflow(home, database_url=url, bucket=bucket, endpoint=endpoint))
        yield Servers(home, store, database, peer, bucket, home / "ceph" / "ceph.conf")


@contextmanager
def new_registry(on: Servers) -> Iterator[Ours]:
    """A registry without a past. After the round its bucket is emptied; after a failure Ceph goes as a whole."""
    bucket = on.store.new_bucket()
    home = Path(tempfile.mkdtemp(prefix="registry-", dir=on.home))
    registry = Registry(home, database_url=on.postgres.new_database(), storage_url=on.store.url(bucket))
    try:
        registry.start()
        with modelyard.Client(registry.url) as client:
            yield Ours(registry, client, bucket)
    finally:
        registry.kill()
    on.clear(bucket)


@contextmanager
def peers(on: Servers) -> Iterator[tuple[Boto3, Mlflow]]:
    """boto3 with a bucket of its own, and MLflow; what they stored is deleted after the round."""
    assert on.mlflow  # noqa: S101 - the parts that need it say so
    bucket = on.store.new_bucket()
    yield Boto3(on.store, bucket), on.mlflow
    on.clear(bucket)
    on.clear(on.mlflow_bucket)


def as_context(fixture: Any) -> AbstractContextManager[Any]:
    """A fixture of the tests as the context manager that it is."""
    function: Callable[[], Iterator[Any]] = inspect.unwrap(fixture)
    return contextmanager(function)()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

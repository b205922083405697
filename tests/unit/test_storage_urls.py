"""Storage URLs: what opens what, what is refused, and that no refusal repeats what it was given."""

import traceback
from pathlib import Path

import pytest

from storage import open_store
from storage.disk import DiskStore
from storage.errors import StoreConfigurationError, StoreUnavailable
from storage.memory import MemoryStore
from storage.minio import MinioStore
from storage.s3 import S3Store

pytestmark = pytest.mark.usefixtures("s3_credentials")

REFUSED = [
    "", "blobs", "/var/blobs", "http://host/bucket", "gs://bucket",
    "file:blobs", "file:./blobs", "file://host/blobs", "file://hunter2@/blobs", "file:///blobs?x=1",
    "file:///blobs#x",
    "memory:blobs", "memory://blobs", "memory:///blobs", "memory://?x=1",
    "s3://", "s3:///prefix", "s3://ab", "s3://Bucket", "s3://bucket:9000", "s3://bucket_", "s3://" + "b" * 64,
    "s3://key:hunter2@bucket", "s3://hunter2@bucket", "minio://key:hunter2@bucket?endpoint=http://localhost",
    "s3://bucket/../other", "s3://bucket/a//b", "s3://bucket/./a", "s3://bucket/a%2e", "s3://bucket/.a",
    "s3://bucket#x",
    "s3://bucket?secret=hunter2", "s3://bucket?access_key=hunter2&region=x", "s3://bucket?region=a&region=b",
    "s3://bucket?region=", "s3://bucket?region=us+east", "s3://bucket?region=a/b",
    "s3://bucket?endpoint=", "s3://bucket?endpoint=localhost:9000", "s3://bucket?endpoint=ftp://localhost",
    "s3://bucket?endpoint=http://key:hunter2@localhost", "s3://bucket?endpoint=http://localhost/path",
    "s3://bucket?endpoint=http://", "s3://bucket?endpoint=http://localhost%3Fx=1",
    "s3://bucket?endpoint=http://[hunter2",
    "s3://bucket?endpoint=http://localhost:hunter2", "s3://bucket?endpoint=http://localhost:99999",
    "s3://[hunter2", "minio://bucket", "minio://bucket?region=us-east-1",
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED)
def test_what_is_not_exactly_a_storage_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(StoreConfigurationError) as refusal:
        open_store(url)
    assert "hunter2" not in "".join(traceback.format_exception(refusal.value)).replace(
        f"open_store({url!r})", ""
    )


def test_each_scheme_opens_its_store(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    opened = [
        (folder.as_uri(), DiskStore),
        ("memory://", MemoryStore),
        ("s3://bucket", S3Store),
        ("s3://my.bucket-1/a/B_2/?endpoint=https://localhost:9000/&region=eu-north-1", S3Store),
        ("minio://bucket/prefix?endpoint=http://127.0.0.1:9000", MinioStore),
    ]
    for url, kind in opened:
        store = open_store(url)
        assert type(store) is kind
        store.close()
    assert folder.is_dir()


def test_a_prefix_in_the_url_goes_before_every_key() -> None:
    for url in ("s3://bucket/a/b", "s3://bucket/a/b/", "minio://bucket/a/b"):
        store = open_store(f"{url}?endpoint=http://localhost:9000")
        signed = store.download_url("key", expires_s=60)
        assert signed
        assert signed.startswith("http://localhost:9000/bucket/a/b/key?")
        store.close()


def test_an_endpoint_is_addressed_by_path_and_aws_by_host() -> None:
    for url, start in [
        ("s3://bucket?endpoint=https://s3.example", "https://s3.example/bucket/key?"),
        ("s3://bucket?region=eu-north-1", "https://bucket.s3.eu-north-1.amazonaws.com/key?"),
        ("s3://dotted.bucket?region=eu-north-1", "https://s3.eu-north-1.amazonaws.com/dotted.bucket/key?"),
    ]:
        store = open_store(url)
        signed = store.download_url("key", expires_s=60)
        assert signed
        assert signed.startswith(start)
        store.close()


def test_a_folder_that_cannot_be_made_is_an_outage() -> None:
    with pytest.raises(StoreUnavailable, match="/dev/null/blobs"):
        open_store("file:///dev/null/blobs")

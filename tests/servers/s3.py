"""Real S3 servers on loopback, started on first use and once per session.

rclone comes with the test dependencies. Ceph comes from Debian's packages: without them its tests are
skipped, unless MODELYARD_REQUIRE_CEPH=1 says that this machine is supposed to have them.
"""

import functools
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import boto3
import botocore.session
import pytest
from botocore.config import Config

from tests.servers import ceph, rclone
from tests.servers.processes import daemons

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ACCESS_KEY = "modelyard"
SECRET_KEY = "modelyard-secret"
REGION = "us-east-1"
NO_CEPH = "install Debian's ceph-mon ceph-osd radosgw ceph-common to run this against Ceph RGW"


@dataclass(frozen=True, slots=True)
class S3Server:
    endpoint: str
    region: str = REGION
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    def client(self) -> "S3Client":
        """A plain boto3 client, for looking at the server from outside the code under test."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )

    def new_bucket(self) -> str:
        """Create an empty bucket that nobody else uses; returns its name."""
        bucket = f"test-{uuid.uuid4().hex}"
        client = self.client()
        client.create_bucket(Bucket=bucket)
        client.close()
        return bucket

    def url(self, bucket: str, *, scheme: str = "s3") -> str:
        """The storage URL of `bucket` (or `bucket/prefix`) here; scheme s3 is boto3, minio the MinIO SDK."""
        return f"{scheme}://{bucket}?{urlencode({'endpoint': self.endpoint, 'region': self.region})}"


@pytest.fixture(scope="session")
def rclone_s3(s3_credentials: tuple[str, str]) -> Iterator[S3Server]:
    """`rclone serve s3`: signatures are checked, objects are kept as files."""
    with _serving(rclone.start, s3_credentials) as server:
        yield server


@pytest.fixture(scope="session")
def ceph_s3(s3_credentials: tuple[str, str]) -> Iterator[S3Server]:
    """Ceph's RADOS gateway: a full implementation of S3."""
    if absent := ceph.missing():
        if os.environ.get("MODELYARD_REQUIRE_CEPH") == "1":
            pytest.fail(f"MODELYARD_REQUIRE_CEPH=1, but {', '.join(absent)} not found: {NO_CEPH}")
        pytest.skip(NO_CEPH)
    with _serving(ceph.start, s3_credentials) as server:
        yield server


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[tuple[str, str]]:
    """(access key, secret key), which are the only AWS settings in the environment until the session ends."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        # Each new boto3 session parses the model of S3 again, for 150 ms of CPU. Tests open hundreds.
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        yield ACCESS_KEY, SECRET_KEY


@contextmanager
def _serving(start: Callable[..., str], credentials: tuple[str, str]) -> Iterator[S3Server]:
    """Run the server that `start` starts, with its data in a folder that is gone afterwards."""
    access_key, secret_key = credentials
    # not tmp_path: pytest keeps those for three sessions, and their length breaks Unix sockets (107 bytes)
    with tempfile.TemporaryDirectory(prefix="s3-") as directory, daemons(Path(directory)) as running:
        endpoint = start(Path(directory), running, access_key=access_key, secret_key=secret_key)
        yield S3Server(endpoint, access_key=access_key, secret_key=secret_key)

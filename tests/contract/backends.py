"""The stores that must behave alike, and the few things in which they may differ: stated here, and tested."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backend:
    name: str
    scheme: str  # of the storage URL
    server: str = ""  # the fixture that starts it
    tells_used_keys: bool = False  # a second put to a key raises KeyExists
    pins_size: bool = False  # a presigned PUT with another number of bytes is refused
    pins_digest: bool = False  # and so is one with another checksum header than the one signed
    refuses_bytes: bool = False  # and so is one with other bytes

    @property
    def presigns(self) -> bool:
        return bool(self.server)


# Observed with rclone 1.75 and Ceph 16.2: both verify the headers that boto3 signs, and so refuse another
# length and another checksum header; neither compares that checksum with the body, as AWS does. Ceph compares
# the payload's hash (x-amz-content-sha256) with it; rclone refuses a presigned request that signs such a hash.
# The MinIO SDK signs none of these.
MEMORY = Backend("memory", "memory", tells_used_keys=True)
DISK = Backend("disk", "file", tells_used_keys=True)
S3_RCLONE = Backend("s3@rclone", "s3", "rclone_s3", pins_size=True, pins_digest=True)
S3_CEPH = Backend("s3@ceph", "s3", "ceph_s3", pins_size=True, pins_digest=True, refuses_bytes=True)
MINIO_RCLONE = Backend("minio@rclone", "minio", "rclone_s3")
MINIO_CEPH = Backend("minio@ceph", "minio", "ceph_s3")

REMOTE = [S3_RCLONE, S3_CEPH, MINIO_RCLONE, MINIO_CEPH]
ALL = [MEMORY, DISK, *REMOTE]

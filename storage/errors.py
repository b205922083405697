"""Everything that storage raises.

    StorageError
    ├── BlobNotFound                nothing at this key
    ├── KeyExists                   something is already at this key: a key is used once
    ├── SizeMismatch                the source held fewer or more bytes than it was said to
    ├── InvalidKey                  not a key that layout.py makes, or a digest that it takes
    ├── StoreUnavailable            the store did not do it: down, full, forbidden, gone; try again later
    └── StoreConfigurationError     the storage URL or the credentials cannot be right; do not try again

Errors of the libraries below (OSError, botocore, minio, urllib3) are translated in the backend and kept as
the cause. Messages hold no secret, but they name buckets, folders and keys: they are for the operator's log,
not for an HTTP answer.
"""


class StorageError(Exception):
    """The base of all."""


class BlobNotFound(StorageError):
    def __init__(self, key: str) -> None:
        super().__init__(f"no blob at {key}")
        self.key = key


class KeyExists(StorageError):
    def __init__(self, key: str) -> None:
        super().__init__(f"{key} is taken, and keys are used once: make a new one with layout.new_key")
        self.key = key


class SizeMismatch(StorageError):
    def __init__(self, *, expected: int, received: int) -> None:
        """`received` counts what was read: of a source that goes on, one byte too many and no more."""
        gave = "more" if received > expected else received
        super().__init__(f"expected exactly {expected} bytes, the source gave {gave}")
        self.expected = expected
        self.received = received


class InvalidKey(StorageError):
    pass


class StoreUnavailable(StorageError):
    pass


class StoreConfigurationError(StorageError):
    pass

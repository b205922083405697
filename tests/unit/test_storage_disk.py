"""What only a disk can do wrong: crashes, links, races for a name, full disks, folders that vanish."""

import errno
import io
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from threading import Barrier

import pytest

from storage.disk import DiskStore, open_disk
from storage.errors import BlobNotFound, KeyExists, StorageError, StoreUnavailable
from storage.layout import new_key

DIGEST = f"sha256:{sha256(b'bytes').hexdigest()}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "a" / "store"


@pytest.fixture
def store(root: Path) -> DiskStore:
    return open_disk(root)


@pytest.fixture
def key() -> str:
    return new_key(DIGEST)


def put(store: DiskStore, key: str, data: bytes = b"bytes") -> None:
    store.put(key, io.BytesIO(data), size=len(data))


def blob_at(root: Path, key: str) -> Path:
    return root / "blobs" / key


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def name_of(fd: int) -> str:
    return str(Path(f"/proc/self/fd/{fd}").readlink())


def assert_reads_as_absent(store: DiskStore, key: str) -> None:
    assert store.stat(key) is None
    assert [found.key for found in store.iterate()] == []
    for look in (store.open, store.local_path):
        with pytest.raises(BlobNotFound):
            look(key)


# --- where the bytes are


def test_a_blob_lies_at_its_key_and_nothing_else_is_left(store: DiskStore, root: Path, key: str) -> None:
    put(store, key)
    assert blob_at(root, key).read_bytes() == b"bytes"
    assert store.local_path(key) == blob_at(root, key)
    assert files_in(root) == [f"blobs/{key}"]


def test_blobs_and_their_folders_are_for_this_user_only(store: DiskStore, root: Path, key: str) -> None:
    put(store, key)
    inside = [root, *root.rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in inside} == {0}


def test_a_store_is_found_again(store: DiskStore, root: Path, key: str) -> None:
    put(store, key)
    with open_disk(root).open(key) as blob:
        assert blob.read() == b"bytes"


def test_everything_is_fsynced_before_a_put_returns(
    store: DiskStore, root: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes before the rename; then every folder from the blob's up to blobs/, be it new or not."""
    synced: list[tuple[str, bool]] = []
    real = os.fsync

    def recorded(fd: int) -> None:
        synced.append((name_of(fd), blob_at(root, key).exists()))
        real(fd)

    monkeypatch.setattr(os, "fsync", recorded)
    put(store, key)
    temp = root / "tmp" / key.replace("/", ".")
    folders = [path for path in blob_at(root, key).parents if path.is_relative_to(root / "blobs")]
    assert synced == [(str(temp), False), *((str(folder), True) for folder in folders)]


def test_new_folders_above_the_store_are_fsynced_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(name_of(fd)))
    open_disk(root)
    above = root.parent.parent
    assert synced == [str(folder) for folder in (above, root.parent, root, root)]


# --- crashes


def test_a_killed_put_leaves_nothing_to_see_and_its_delete_clears_up(
    store: DiskStore, root: Path, key: str
) -> None:
    with put_in_another_process(root, key) as child:
        child.send_signal(signal.SIGKILL)
    assert files_in(root) == [f"tmp/{key.replace('/', '.')}"]
    assert_reads_as_absent(store, key)
    store.check()
    store.delete(key)
    assert files_in(root) == []


@contextmanager
def put_in_another_process(root: Path, key: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the middle of a put: the first of its two megabytes is written, the second never comes."""
    program = (
        "import sys; from pathlib import Path; from storage.disk import open_disk;"
        "open_disk(Path(sys.argv[1])).put(sys.argv[2], sys.stdin.buffer, size=2 << 20)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, root, key], stdin=subprocess.PIPE)
    with child:
        assert child.stdin
        child.stdin.write(bytes(1 << 20))
        child.stdin.flush()
        temp = root / "tmp" / key.replace("/", ".")
        while not (temp.exists() and temp.stat().st_size == 1 << 20):
            assert child.poll() is None
        yield child


def test_a_file_in_the_making_is_no_blob_under_any_name(store: DiskStore, root: Path) -> None:
    (root / "tmp" / "leftover").write_bytes(b"half")
    (root / "blobs" / ".hidden").write_bytes(b"half")
    (root / "blobs" / "UPPER").write_bytes(b"half")
    assert list(store.iterate()) == []


# --- races


def test_of_puts_to_one_key_at_once_exactly_one_wins(store: DiskStore, root: Path) -> None:
    contents = [bytes([n]) * 100_000 for n in range(8)]
    start = Barrier(len(contents))

    def attempt(key: str, data: bytes) -> bytes | None:
        start.wait()
        try:
            put(store, key, data)
        except KeyExists:
            return None
        return data

    for _ in range(25):
        key = new_key(DIGEST)
        with ThreadPoolExecutor(len(contents)) as pool:
            won = [data for data in pool.map(attempt, [key] * len(contents), contents) if data]
        assert won == [blob_at(root, key).read_bytes()]
    assert files_in(root / "tmp") == []


def test_puts_beside_deletes_of_the_same_digest_all_succeed(store: DiskStore, root: Path) -> None:
    """A delete drops the folder of the digest when it is empty; a put may have entered it a moment before."""

    def come_and_go(_: int) -> None:
        for _ in range(50):
            key = new_key(DIGEST)
            put(store, key)
            with store.open(key) as blob:
                assert blob.read() == b"bytes"
            store.delete(key)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(come_and_go, range(4)))
    assert files_in(root) == []


def test_a_listing_goes_on_while_blobs_come_and_go(store: DiskStore) -> None:
    stays = [new_key(f"sha256:{n:064x}") for n in range(50)]
    goes = [new_key(f"sha256:{n:064x}") for n in range(50, 100)]
    for key in stays + goes:
        put(store, key)
    listing = store.iterate()
    seen = {next(listing).key}
    for key in goes:
        store.delete(key)
    seen |= {found.key for found in listing}
    assert set(stays) <= seen


def test_a_put_whose_key_was_deleted_meanwhile_fails_and_shows_nothing(store: DiskStore, key: str) -> None:
    """So ends an upload that took so long that the sweep gave it up."""

    class Slow(io.BytesIO):
        def read(self, n: int | None = -1) -> bytes:
            store.delete(key)
            return super().read(n)

    with pytest.raises(StoreUnavailable, match="deleted while it was written"):
        store.put(key, Slow(b"bytes"), size=5)
    assert_reads_as_absent(store, key)


# --- what is not a blob


def test_a_symbolic_link_in_a_blobs_place_is_not_followed(
    store: DiskStore, root: Path, key: str, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    blob_at(root, key).parent.mkdir(parents=True)
    blob_at(root, key).symlink_to(secret)
    assert_reads_as_absent(store, key)
    with pytest.raises(KeyExists):
        put(store, key)
    store.delete(key)
    assert secret.read_bytes() == b"secret"
    put(store, key)
    assert secret.read_bytes() == b"secret"


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_linked_folder_on_the_way_is_not_followed(
    store: DiskStore, root: Path, key: str, tmp_path: Path, depth: int
) -> None:
    elsewhere = tmp_path / "elsewhere"
    names = key.split("/")
    target = elsewhere.joinpath(*names[depth:])
    target.parent.mkdir(parents=True)
    target.write_bytes(b"not ours")
    link = root.joinpath("blobs", *names[:depth])
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere)
    assert_reads_as_absent(store, key)
    store.delete(key)
    with pytest.raises(StoreUnavailable):
        put(store, key)
    assert target.read_bytes() == b"not ours"
    assert files_in(elsewhere) == [str(target.relative_to(elsewhere))]


@pytest.mark.parametrize("name", ["blobs", "tmp"])
def test_a_link_in_place_of_our_own_folders_is_an_outage(
    store: DiskStore, root: Path, key: str, tmp_path: Path, name: str
) -> None:
    (root / name).rmdir()
    (tmp_path / "elsewhere").mkdir()
    (root / name).symlink_to(tmp_path / "elsewhere")
    for verb in (store.check, lambda: put(store, key)):
        with pytest.raises(StoreUnavailable):
            verb()
    assert files_in(tmp_path / "elsewhere") == []


def test_a_blob_with_a_second_name_is_none(store: DiskStore, root: Path, key: str, tmp_path: Path) -> None:
    """Who holds the other name could change the bytes after they were verified."""
    put(store, key)
    os.link(blob_at(root, key), tmp_path / "other name")
    assert_reads_as_absent(store, key)


def test_a_fifo_in_a_blobs_place_hangs_nobody(store: DiskStore, root: Path, key: str) -> None:
    blob_at(root, key).parent.mkdir(parents=True)
    os.mkfifo(blob_at(root, key))
    assert_reads_as_absent(store, key)


def test_deleting_what_is_a_folder_does_nothing(store: DiskStore, root: Path, key: str) -> None:
    put(store, key)
    for length in (1, 2, 3):
        store.delete("/".join(key.split("/")[:length]))
    assert files_in(root) == [f"blobs/{key}"]


def test_deleting_from_an_empty_store_leaves_it_a_store(store: DiskStore, key: str) -> None:
    for length in (1, 2, 3, 4):
        store.delete("/".join(key.split("/")[:length]))
    store.check()
    put(store, key)


def test_deleting_the_last_blob_of_a_digest_drops_its_folder(store: DiskStore, root: Path) -> None:
    first, second = new_key(DIGEST), new_key(DIGEST)
    put(store, first)
    put(store, second)
    store.delete(first)
    assert blob_at(root, second).exists()
    store.delete(second)
    assert not blob_at(root, second).parent.exists()
    assert blob_at(root, second).parent.parent.exists()


# --- failing disks


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """The kernel refuses to write beyond: a true error in the middle of a put (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_error_in_the_middle_is_an_outage_and_leaves_nothing(
    store: DiskStore, root: Path, key: str
) -> None:
    size = 3 << 20
    with no_file_longer_than(2 << 20), pytest.raises(StoreUnavailable, match="File too large") as caught:
        put(store, key, bytes(size))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert files_in(root) == []
    put(store, key, bytes(size))


def test_a_check_writes_so_it_notices_what_only_writing_meets(store: DiskStore, root: Path) -> None:
    with no_file_longer_than(0), pytest.raises(StoreUnavailable):
        store.check()
    assert files_in(root) == []


def test_a_disk_that_fails_under_a_reader_is_an_outage(store: DiskStore, root: Path, key: str) -> None:
    """The descriptor is exchanged for a folder's, from which every read fails."""
    put(store, key, os.urandom(100_000))
    for read in (
        lambda blob: blob.read(10),
        lambda blob: blob.read(),
        lambda blob: blob.readinto(bytearray(10)),
    ):
        folder = os.open(root, os.O_RDONLY)
        with store.open(key) as blob:
            os.dup2(folder, blob.fileno())
            os.close(folder)
            with pytest.raises(StoreUnavailable):
                read(blob)


def test_an_unmounted_volume_is_an_outage_and_is_not_filled_instead(
    store: DiskStore, root: Path, key: str
) -> None:
    """An unmount leaves an empty folder: no blob is known to be missing, and none may be put there."""
    put(store, key)
    root.rename(root.with_name("away"))
    root.mkdir()
    verbs = [
        store.check,
        lambda: put(store, new_key(DIGEST)),
        lambda: store.open(key),
        lambda: store.local_path(key),
        lambda: store.stat(key),
    ]
    for verb in [*verbs, lambda: list(store.iterate()), lambda: store.delete(key)]:
        with pytest.raises(StoreUnavailable):
            verb()
    assert list(root.iterdir()) == []


def test_a_file_where_the_store_should_be_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"Not a directory|File exists"):
        open_disk(tmp_path / "file")

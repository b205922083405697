"""Archives as bytes: the same version gives the same, and a hostile one is refused before anything is written or sent."""

import errno
import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from modelyard import Client, IntegrityError, InvalidPath, InvalidReference, ModelyardError, _archive
from modelyard._archive import blob_name, open_layout
from modelyard._errors import InvalidArchive
from modelyard._manifest import sha256
from modelyard._oci import artifact_of
from modelyard._portable import export, import_

from tests.unit.sdk_fake import FakeRegistry, digest_of, problem

CONTENTS = {"a/weights.bin": b"w" * 5000, "b.json": b"{}", "empty": b"", "same": b"{}"}
WEIGHTS = blob_name(digest_of(CONTENTS["a/weights.bin"]))


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry(dict(CONTENTS))


@pytest.fixture
def client(registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))
    with registry.client() as opened:
        yield opened


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def archive(client: Client, tmp_path: Path) -> Path:
    return export(client, "fraud/1", tmp_path / "fraud.tar")


Members = dict[str, bytes]
Edit = Callable[[Members], object]


def members(path: Path) -> Members:
    with tarfile.open(path) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]


def rewrite(path: Path, content: Members, *extra: tarfile.TarInfo, body: bytes = b"") -> Path:
    """Write an archive anew, with further members that hold `body`."""
    with tarfile.open(path, "w") as tar:
        for name, each in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(each)
            tar.addfile(member, io.BytesIO(each))
        for member in extra:
            tar.addfile(member, io.BytesIO(body))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, link, size
    return made


def test_the_same_version_gives_the_same_bytes(client: Client, archive: Path, tmp_path: Path) -> None:
    again = export(client, "fraud/1", tmp_path)
    assert again.name == "fraud-1.modelyard.tar"
    assert again.read_bytes() == archive.read_bytes()


def test_nothing_of_this_machine_is_in_the_tar(client: Client, archive: Path) -> None:
    with tarfile.open(archive) as tar:
        found = tar.getmembers()
    assert {(m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in found} == {
        (0, 0, "", "", 0o644, tarfile.REGTYPE)
    }
    assert {m.mtime for m in found} == {int(client.resolve("fraud/1").created_at.timestamp())}
    names = [m.name for m in found]
    assert names[:2] == ["oci-layout", "index.json"]
    assert names[4:] == sorted(names[4:])


def test_a_directory_holds_the_same_files(client: Client, archive: Path, tmp_path: Path) -> None:
    folder = export(client, "fraud/1", tmp_path, directory=True)
    assert folder == tmp_path / "fraud-1.modelyard"
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == members(archive)


@pytest.mark.parametrize("directory", [False, True])
def test_an_archive_is_uploaded_as_it_was(
    client: Client, registry: FakeRegistry, tmp_path: Path, private: Path, directory: bool
) -> None:
    path = export(client, "fraud/1", tmp_path / "out", directory=directory)
    moved: list[tuple[int, int]] = []
    version = import_(client, path, progress=lambda done, total: moved.append((done, total)))
    assert version.files == tuple(registry.files)
    assert registry.published == CONTENTS
    assert moved[-1][0] == moved[-1][1]
    assert not list(private.iterdir())


def test_an_upload_carries_the_recorded_facts_and_the_chosen_name(
    client: Client, registry: FakeRegistry, archive: Path
) -> None:
    import_(client, archive, "other")
    body = json.loads(registry.requests[-1].read())
    assert registry.requests[-1].url.path == "/api/v1/models/other/versions"
    expected = {"format", "variants", "signature", "example", "description", "metrics", "tags"}
    assert body.keys() == expected | {"upload", "files", "blobs"}


def test_an_existing_destination_is_left_alone(client: Client, archive: Path, tmp_path: Path) -> None:
    before = archive.read_bytes()
    with pytest.raises(InvalidPath, match="exists already"):
        export(client, "fraud/1", archive)
    with pytest.raises(InvalidPath, match="no directory"):
        export(client, "fraud/1", tmp_path / "no" / "file.tar")
    assert archive.read_bytes() == before


def test_a_failed_export_leaves_nothing(client: Client, registry: FakeRegistry, tmp_path: Path) -> None:
    goal = tmp_path / "goal"
    goal.mkdir()
    registry.before = lambda request: problem(404, "gone") if "/bytes/" in request.url.path else None
    with pytest.raises(ModelyardError):
        export(client, "fraud/1", goal)
    assert not list(goal.iterdir())


def refused(
    client: Client,
    registry: FakeRegistry,
    private: Path,
    path: Path,
    error: type[ModelyardError] = InvalidArchive,
) -> str:
    """Import `path`, which must fail without a request and without a trace; returns the message."""
    asked, around = len(registry.requests), set(path.parent.iterdir())
    with pytest.raises(error) as caught:
        import_(client, path)
    assert len(registry.requests) == asked
    assert not list(private.iterdir())
    assert set(path.parent.iterdir()) == around
    return str(caught.value)


@pytest.mark.parametrize(
    "extra",
    [
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("link", tarfile.LNKTYPE, "index.json"),
        member("pipe", tarfile.FIFOTYPE),
        member("device", tarfile.CHRTYPE),
        member("folder", tarfile.DIRTYPE),
        member("blobs", tarfile.SYMTYPE, "/etc"),
        member("../outside"),
        member("/etc/cron.d/x"),
        member("blobs/sha256/" + "0" * 64),
        member("blobs/sha256/../../../outside"),
    ],
    ids=lambda each: f"{each.type.decode()}-{each.name}",
)
def test_what_does_not_belong_into_an_archive_is_refused(
    client: Client, registry: FakeRegistry, private: Path, archive: Path, extra: tarfile.TarInfo
) -> None:
    rewrite(archive, members(archive), extra)
    refused(client, registry, private, archive)


@pytest.mark.parametrize("prefix", ["", "./"])
def test_a_member_twice_is_refused_even_if_it_is_the_same(
    client: Client, registry: FakeRegistry, private: Path, archive: Path, prefix: str
) -> None:
    content = members(archive)
    rewrite(archive, content, member(prefix + WEIGHTS, size=5000), body=content[WEIGHTS])
    assert "twice" in refused(client, registry, private, archive)


def test_a_blob_that_is_a_link_is_refused(
    client: Client, registry: FakeRegistry, private: Path, archive: Path
) -> None:
    content = members(archive)
    content.pop(blob_name(digest_of(CONTENTS["b.json"])))
    rewrite(archive, content, member(blob_name(digest_of(CONTENTS["b.json"])), tarfile.SYMTYPE, "/etc/hosts"))
    refused(client, registry, private, archive)


def test_sparse_files_are_refused(
    client: Client, registry: FakeRegistry, private: Path, archive: Path
) -> None:
    sparse = member("huge")
    sparse.pax_headers = {
        "GNU.sparse.size": "9000000000000",
        "GNU.sparse.map": "0,0",
        "GNU.sparse.numblocks": "1",
    }
    content = members(archive)
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, each in content.items():
            tar.addfile(member(name, size=len(each)), io.BytesIO(each))
        tar.addfile(sparse)
    assert "special file" in refused(client, registry, private, archive)


def test_headers_without_end_are_refused(
    client: Client, registry: FakeRegistry, private: Path, tmp_path: Path
) -> None:
    """A header that announces 4 GiB, a chain of headers, and more members than any version has."""
    huge = member("x", tarfile.XHDTYPE, size=4 << 30).tobuf()
    chain = b"".join(member("x", tarfile.XGLTYPE).tobuf() for _ in range(5000))
    many = b"".join(member(f"{at}").tobuf() for at in range(5000))
    for content, told in ((huge, "header is too large"), (chain, "tar file"), (many, "too many members")):
        path = tmp_path / "hostile.tar"
        path.write_bytes(content + bytes(1024))
        with path.open("r+b") as stream:
            stream.truncate(max(len(content), 5 << 30 if content is huge else 0))
        assert told in refused(client, registry, private, path)
        path.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:100],
        lambda _: b"",
        lambda _: b"not a tar" * 1000,
        gzip.compress,
    ],
    ids=["half", "header", "empty", "text", "gzip"],
)
def test_what_is_no_tar_is_refused(
    client: Client, registry: FakeRegistry, private: Path, archive: Path, damage: Callable[[bytes], bytes]
) -> None:
    archive.write_bytes(damage(archive.read_bytes()))
    refused(client, registry, private, archive)


def test_every_cut_is_refused(client: Client, registry: FakeRegistry, private: Path, archive: Path) -> None:
    whole = archive.read_bytes()
    end = len(whole.rstrip(b"\0"))
    for length in range(0, end, 512):
        archive.write_bytes(whole[:length])
        refused(client, registry, private, archive, ModelyardError)


@pytest.mark.parametrize("directory", [False, True])
@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (lambda each: each.update({WEIGHTS: b"x" * 5000}), IntegrityError),
        (lambda each: each.update({WEIGHTS: each[WEIGHTS] + b"x"}), IntegrityError),
        (lambda each: each.update({WEIGHTS: each[WEIGHTS][:-1]}), IntegrityError),
        (lambda each: each.pop(WEIGHTS), InvalidArchive),
        (lambda each: each.pop("index.json"), InvalidArchive),
        (lambda each: each.update({"index.json": b"[]"}), InvalidArchive),
        (lambda each: each.update({"index.json": b" " * (_archive.MAX_DOCUMENT_BYTES + 1)}), InvalidArchive),
    ],
    ids=["other", "longer", "shorter", "missing", "no-index", "empty-index", "endless-index"],
)
def test_wrong_bytes_are_refused(
    client: Client,
    registry: FakeRegistry,
    private: Path,
    tmp_path: Path,
    archive: Path,
    directory: bool,
    edit: Edit,
    error: type[ModelyardError],
) -> None:
    content = members(archive)
    edit(content)
    if directory:
        place(tmp_path / "layout", content)
        archive = tmp_path / "layout"
    else:
        rewrite(archive, content)
    refused(client, registry, private, archive, error)


def place(root: Path, content: Members) -> Path:
    for name, each in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(each)
    return root


@pytest.mark.parametrize("which", ["manifest", "config"])
def test_a_forged_document_is_refused(
    client: Client, registry: FakeRegistry, private: Path, archive: Path, which: str
) -> None:
    """The blob under a document's name is another one, valid in itself."""
    document = getattr(artifact_of(client.resolve("fraud/1")), which)
    content = members(archive)
    content[blob_name(sha256(document))] = document.replace(b"fraud", b"frand")
    refused(client, registry, private, rewrite(archive, content), IntegrityError)


def forged(archive: Path, old: bytes, new: bytes) -> Path:
    """Change the manifest, and the index so that it fits."""
    content = members(archive)
    name = blob_name(json.loads(content["index.json"])["manifests"][0]["digest"])
    manifest = content.pop(name)
    assert old in manifest
    manifest = manifest.replace(old, new)
    index = json.loads(content["index.json"])
    index["manifests"][0].update(digest=sha256(manifest), size=len(manifest))
    content["index.json"] = json.dumps(index).encode()
    content[blob_name(sha256(manifest))] = manifest
    return rewrite(archive, content)


def test_an_unsafe_path_is_refused(
    client: Client, registry: FakeRegistry, private: Path, archive: Path
) -> None:
    forged(archive, b'"org.cncf.model.filepath":"empty"', b'"org.cncf.model.filepath":"../outside"')
    assert "../outside" in refused(client, registry, private, archive, InvalidPath)


def test_a_size_that_is_a_lie_is_refused(
    client: Client, registry: FakeRegistry, private: Path, archive: Path
) -> None:
    """A foreign artifact has no digest over its sizes: the bytes themselves decide."""
    forged(archive, b"modelyard.version+json", b"someone.else+json")
    forged(archive, b'"size":5000', b'"size":4999')
    refused(client, registry, private, archive, IntegrityError)


def test_a_recorded_name_that_is_none_is_refused(
    client: Client, registry: FakeRegistry, private: Path, archive: Path
) -> None:
    forged(archive, b'\\"model\\":\\"fraud\\"', b'\\"model\\":\\"../../x\\"')
    refused(client, registry, private, archive, InvalidReference)


def test_more_bytes_than_there_is_room_for_are_refused(
    client: Client, registry: FakeRegistry, private: Path, archive: Path
) -> None:
    forged(archive, b"modelyard.version+json", b"someone.else+json")
    forged(archive, b'"size":5000', b'"size":5000000000000000000')
    assert "free" in refused(client, registry, private, archive, InvalidPath)


def test_another_tools_artifact_is_named_by_its_config_and_its_format_guessed(
    client: Client, registry: FakeRegistry, archive: Path
) -> None:
    import_(client, forged(archive, b"modelyard.version+json", b"someone.else+json"))
    assert registry.requests[-1].url.path == "/api/v1/models/fraud/versions"
    assert json.loads(registry.requests[-1].read())["format"] == "files"


def test_members_may_come_in_any_order_and_with_folders(
    client: Client, registry: FakeRegistry, archive: Path
) -> None:
    """As other tools write a layout: `tar -cf x.tar .` for one."""
    content = {f"./{name}": each for name, each in reversed(members(archive).items())}
    folders = [member(name, tarfile.DIRTYPE) for name in (".", "./blobs", "./blobs/sha256")]
    rewrite(archive, content, *folders)
    assert import_(client, archive).files == tuple(registry.files)


def test_another_tool_cannot_fill_our_reserved_folder(
    client: Client, registry: FakeRegistry, private: Path, archive: Path
) -> None:
    forged(archive, b"modelyard.version+json", b"someone.else+json")
    forged(archive, b'filepath":"empty"', b'filepath":"Modelyard/empty"')
    refused(client, registry, private, archive, InvalidPath)


def test_a_foreign_config_without_a_name_needs_one(
    client: Client, registry: FakeRegistry, private: Path, archive: Path
) -> None:
    forged(archive, b"modelyard.version+json", b"someone.else+json")
    content = members(archive)
    manifest = content[blob_name(json.loads(content["index.json"])["manifests"][0]["digest"])]
    old = json.loads(manifest)["config"]
    config = content.pop(blob_name(old["digest"])).replace(b'"name":"fraud",', b"")
    content[blob_name(sha256(config))] = config
    rewrite(archive, content)
    forged(archive, old["digest"].encode(), sha256(config).encode())
    forged(archive, b'"size":%d' % old["size"], b'"size":%d' % len(config))
    assert "import FILE NAME" in refused(client, registry, private, archive)
    import_(client, archive, "given")
    assert registry.requests[-1].url.path == "/api/v1/models/given/versions"


def test_a_full_disk_is_told(
    client: Client, registry: FakeRegistry, private: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("modelyard._portable.copy_blob", full)
    assert "No space left" in refused(client, registry, private, archive, InvalidPath)


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_a_linked_blob_in_a_directory_is_refused(
    client: Client, registry: FakeRegistry, private: Path, archive: Path, tmp_path: Path
) -> None:
    folder = place(tmp_path / "layout", members(archive))
    (tmp_path / "secret").write_bytes((folder / WEIGHTS).read_bytes())
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(tmp_path / "secret")
    refused(client, registry, private, folder, InvalidPath)


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidPath, match=r"no\.tar"), open_layout(tmp_path / "no.tar"):
        pass

"""Versions that travel: by file through real registries and foreign tools, and from one registry to another."""

import json
import os
import shutil
import subprocess
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import httpx2
import pytest
from modelyard import Client, NotFound, Signature, Tensor, Variant, Version, _shell
from modelyard._archive import blob_name
from modelyard._copy import copy
from modelyard._manifest import sha256
from modelyard._portable import export, import_
from modelyard._portable_cli import cp as cp_command
from modelyard._portable_cli import export as export_command
from modelyard._portable_cli import import_ as import_command

from tests.servers.ports import free_port, wait_for_http
from tests.servers.registry import Registry

TOKEN = "a-token-of-sixteen-or-more"
APP = click.Group("modelyard", commands=[export_command, import_command, cp_command])
SKOPEO = shutil.which("skopeo")
OCI_REGISTRY = shutil.which("docker-registry")
needs_skopeo = pytest.mark.skipif(SKOPEO is None, reason="needs skopeo: apt-get install skopeo")
needs_oci_registry = pytest.mark.skipif(
    OCI_REGISTRY is None, reason="needs an OCI registry: apt-get install docker-registry"
)
CONTENTS = {
    "model.onnx.data": os.urandom(3_000_000),
    "empty": b"",
    "same/1": b"twice",
    "same/2": b"twice",
    "Größe 100%/模型 #1?.txt": "ünïcode".encode(),
    'a "quoted" name': b"x",
    "config.json": b"{}",
    "README.md": b"about",
}
TENSORS = (Tensor("x", "FP32", (-1, 4)),)


@pytest.fixture(autouse=True)
def _home(registry_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELYARD_URL", registry_url)
    monkeypatch.delenv("MODELYARD_TO_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def client() -> Iterator[Client]:
    with Client() as opened:
        yield opened


@pytest.fixture(scope="module")
def other_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A second registry, which wants a token."""
    registry = Registry(tmp_path_factory.mktemp("other"), environment={"MODELYARD_REGISTRY_TOKEN": TOKEN})
    try:
        yield registry.start()
    finally:
        registry.kill()


@pytest.fixture
def other(other_registry: Registry) -> Iterator[Client]:
    with Client(other_registry.url, TOKEN) as opened:
        yield opened


@pytest.fixture
def version(client: Client, tmp_path: Path) -> Version:
    """A version of which everything is said that can be."""
    root = write(tmp_path / "model", CONTENTS)
    return client.register(
        f"sdk-{uuid.uuid4().hex}",
        root,
        format="custom",
        variants=[Variant("custom", "same")],
        signature=Signature(TENSORS, TENSORS),
        example="config.json",
        metrics={"auc": 0.97},
        description="Größe\nzwei",
        tags={"team": "ü"},
    )


def write(root: Path, contents: dict[str, bytes]) -> Path:
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def assert_same(client: Client, found: Version, original: Version, folder: Path) -> None:
    """In the registry it says the same about the same bytes."""
    assert found.digest == original.digest
    for fact in ("format", "variants", "signature", "example", "description", "metrics", "tags", "files"):
        assert getattr(found, fact) == getattr(original, fact)
    assert tree(client.download(found, folder)) == CONTENTS


@pytest.mark.parametrize("directory", [False, True])
def test_a_version_is_the_same_after_export_and_import(
    client: Client, other: Client, version: Version, tmp_path: Path, directory: bool
) -> None:
    path = export(client, version, tmp_path, directory=directory)
    found = import_(other, path)
    assert (found.model, found.number, found.stage) == (version.model, 1, "none")
    assert_same(other, found, version, tmp_path / "back")
    again = import_(client, path, f"{version.model}-b")
    assert (again.model, again.digest) == (f"{version.model}-b", version.digest)


def test_importing_again_makes_the_next_version(client: Client, version: Version, tmp_path: Path) -> None:
    path = export(client, version, tmp_path)
    assert import_(client, path).number == version.number + 1


def test_memory_stays_small(client: Client, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(os.urandom(1 << 20) * 64)
    version = client.register(f"sdk-{uuid.uuid4().hex}", tmp_path / "large")
    tracemalloc.start()
    try:
        import_(client, export(client, version, tmp_path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 << 20


def test_a_destination_may_have_any_name(client: Client, version: Version, tmp_path: Path) -> None:
    for name in ("content", "archive"):
        assert import_(client, export(client, version, tmp_path / name)).digest == version.digest


@needs_skopeo
def test_skopeo_reads_the_archive_and_we_read_what_it_writes(
    client: Client, version: Version, tmp_path: Path
) -> None:
    path = export(client, version, tmp_path)
    shown = json.loads(skopeo("inspect", "--raw", f"oci-archive:{path}"))
    assert shown["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert sorted(layer["digest"] for layer in shown["layers"]) == sorted(f.digest for f in version.files)
    skopeo("copy", "--insecure-policy", f"oci-archive:{path}", f"oci-archive:{tmp_path / 'copy.tar'}:any")
    skopeo(
        "copy", "--insecure-policy", f"oci-archive:{path}:{version.number}", f"oci:{tmp_path / 'copy'}:any"
    )
    for copied in ("copy.tar", "copy"):
        assert_same(client, import_(client, tmp_path / copied), version, tmp_path / f"from-{copied}")


def test_another_tools_artifact_becomes_a_version(client: Client, tmp_path: Path) -> None:
    """Without our annotation, as `modctl` would write it."""
    name = f"sdk-{uuid.uuid4().hex}"
    version = client.register(name, write(tmp_path / "model", {"MLmodel": b"flavors: {}", "data/x": b"x"}))
    layout = export(client, version, tmp_path, directory=True)
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads((layout / blob_name(index["manifests"][0]["digest"])).read_text())
    del manifest["annotations"]
    changed = json.dumps(manifest).encode()
    index["manifests"][0].update(digest=sha256(changed), size=len(changed))
    (layout / blob_name(sha256(changed))).write_bytes(changed)
    (layout / "index.json").write_text(json.dumps(index))
    found = import_(client, layout)
    assert (found.model, found.number, found.digest) == (name, 2, version.digest)
    assert (found.format, found.variants) == ("mlflow", (Variant("mlflow", "."),))


@needs_skopeo
@needs_oci_registry
def test_an_oci_registry_takes_the_archive_and_gives_it_back(
    client: Client, version: Version, tmp_path: Path, oci_registry: str
) -> None:
    path = export(client, version, tmp_path)
    there = f"docker://{oci_registry}/fraud:{version.number}"
    skopeo("copy", "--insecure-policy", "--dest-tls-verify=false", f"oci-archive:{path}", there)
    manifest = json.loads(fetch(f"http://{oci_registry}/v2/fraud/manifests/{version.number}"))
    for layer in manifest["layers"]:
        content = fetch(f"http://{oci_registry}/v2/fraud/blobs/{layer['digest']}")
        assert content == CONTENTS[layer["annotations"]["org.cncf.model.filepath"]]
    back = tmp_path / "back.tar"
    skopeo("copy", "--insecure-policy", "--src-tls-verify=false", there, f"oci-archive:{back}")
    assert_same(client, import_(client, back), version, tmp_path / "back")


def skopeo(*arguments: str) -> str:
    done = subprocess.run([str(SKOPEO), *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fetch(url: str) -> bytes:
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    return httpx2.get(url, headers=accept).raise_for_status().content


@pytest.fixture
def oci_registry(tmp_path: Path) -> Iterator[str]:
    """A real OCI registry; gives its host and port."""
    address = f"127.0.0.1:{free_port()}"
    config = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "oci")}},
        "http": {"addr": address},
    }
    (tmp_path / "oci.yml").write_text(json.dumps(config))
    with (
        (tmp_path / "oci.log").open("wb") as log,
        subprocess.Popen(
            [str(OCI_REGISTRY), "serve", str(tmp_path / "oci.yml")], stdout=log, stderr=log
        ) as process,
    ):
        try:
            wait_for_http(f"http://{address}/v2/")
            yield address
        finally:
            process.kill()


def test_a_copy_is_the_same_in_the_other_registry(
    client: Client, other: Client, version: Version, tmp_path: Path
) -> None:
    moved: list[tuple[int, int]] = []
    done = copy(client, f"{version.model}/1", other, progress=lambda at, total: moved.append((at, total)))
    assert (done.source, done.created, done.target.model) == (version, True, version.model)
    assert_same(other, done.target, version, tmp_path / "back")
    assert moved[-1][0] == moved[-1][1]
    assert moved == sorted(moved, key=lambda each: each[0])


def test_a_copy_is_not_made_twice_unless_forced(client: Client, other: Client, version: Version) -> None:
    first = copy(client, f"{version.model}/1", other)
    again = copy(client, f"{version.model}/1", other)
    assert (again.target, again.created) == (first.target, False)
    forced = copy(client, f"{version.model}/1", other, force=True)
    assert (forced.target.number, forced.created) == (first.target.number + 1, True)


def test_the_same_files_with_other_metrics_are_another_version(
    client: Client, other: Client, version: Version, tmp_path: Path
) -> None:
    copy(client, f"{version.model}/1", other)
    better = client.register(version.model, tmp_path / "model", metrics={"auc": 0.98})
    done = copy(client, f"{version.model}/{better.number}", other)
    assert (done.created, done.target.metrics, done.target.digest) == (True, {"auc": 0.98}, version.digest)


def test_a_copy_under_another_name_may_stay_in_its_registry(client: Client, version: Version) -> None:
    done = copy(client, f"{version.model}/1", client, f"{version.model}-b")
    assert (done.target.model, done.target.number, done.target.digest) == (
        f"{version.model}-b",
        1,
        version.digest,
    )


def test_what_is_not_there_cannot_travel(client: Client, other: Client, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        copy(client, "no-such-model/1", other)
    with pytest.raises(NotFound):
        export(client, "no-such-model/1", tmp_path)


Run = Callable[..., Any]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that succeeds and is quiet on stderr; returns what it printed."""

    def run_quietly(*arguments: object) -> str:
        assert _shell.run(APP, [str(each) for each in arguments]) == 0
        told = capsys.readouterr()
        assert told.err == ""
        return told.out

    return run_quietly


def test_the_commands_export_and_import(run: Run, client: Client, version: Version, tmp_path: Path) -> None:
    name = f"{version.model}-1.modelyard.tar"
    assert run("export", f"{version.model}/1") == f"{tmp_path / name}\n"
    assert run("import", name, "renamed-" + version.model).startswith(
        f"renamed-{version.model}/1 {version.digest} (custom, "
    )
    told = json.loads(run("export", f"{version.model}/1", "layout", "--dir", "--json"))
    assert (told["path"], told["version"]["digest"]) == (str(tmp_path / "layout"), version.digest)
    told = json.loads(run("import", "layout", "--json"))
    assert client.resolve(f"{version.model}/{told['version']['number']}").digest == version.digest


def test_the_command_cp(
    run: Run, client: Client, other: Client, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELYARD_TO_TOKEN", TOKEN)
    there = f"{version.model}/1 at {other.url} ({version.digest})\n"
    here = f"{version.model}/1 at {client.url}"
    assert run("cp", f"{version.model}/1", "--to", other.url) == f"{here} -> {there}"
    assert run("cp", f"{version.model}/1", "--to", other.url + "/") == f"{here} is already {there}"
    monkeypatch.delenv("MODELYARD_TO_TOKEN")
    monkeypatch.setenv("MINE", TOKEN)
    more = ("--to", other.url, "--as", f"{version.model}-b", "--token-env", "MINE", "--json")
    told = json.loads(run("cp", f"{version.model}/1", *more))
    assert (told["target"]["model"], told["created"]) == (f"{version.model}-b", True)
    assert (told["from"], told["to"]) == (client.url, other.url)


def test_the_source_registrys_token_is_not_sent_to_the_other(
    version: Version, registry_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """MODELYARD_TOKEN would open the other registry here, were it sent: it is the same one by another name."""
    other = registry_url.replace("127.0.0.1", "localhost")
    assert _shell.run(APP, ["cp", f"{version.model}/1", "--to", other]) == 1
    assert "unauthorized" in capsys.readouterr().err


def test_a_token_variable_that_is_not_set_is_named(
    version: Version, other: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _shell.run(APP, ["cp", f"{version.model}/1", "--to", other.url, "--token-env", "NOT_SET"]) == 1
    assert "NOT_SET" in capsys.readouterr().err


def test_a_file_that_is_no_archive_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.tar").write_bytes(b"no")
    assert _shell.run(APP, ["import", "x.tar"]) == 1
    assert capsys.readouterr().err.startswith("error: ")

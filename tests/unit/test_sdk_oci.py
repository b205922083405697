"""A version as a CNCF ModelPack artifact and back: what is written, and what is refused."""

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard import IntegrityError, InvalidPath, ModelyardError, Signature, Tensor, Variant, Version
from modelyard._errors import InvalidArchive
from modelyard._manifest import manifest_digest, sha256
from modelyard._oci import RECORD, artifact_of, read_index, read_manifest, read_name

from tests.unit.sdk_fake import UNSAFE_PATHS, file_of

FILES = (
    file_of("model.skops", b"weights"),
    file_of("README.md", b"about"),
    file_of("conf/params.json", b"{}"),
    file_of("serve.py", b"pass"),
    file_of("same", b"weights"),
    file_of("empty", b""),
)
TENSORS = (Tensor("x", "FP64", (-1, 3)),)
VERSION = Version(
    model="fraud",
    number=3,
    digest=manifest_digest(FILES),
    format="sklearn-skops",
    variants=(Variant("sklearn-skops", "model.skops"),),
    signature=Signature(TENSORS, TENSORS),
    example="conf/params.json",
    description="Größe",
    metrics={"auc": 0.97},
    tags={"team": "ü"},
    files=tuple(sorted(FILES, key=lambda file: file.path)),
    size=sum(file.size for file in FILES),
    stage="none",
    aliases=(),
    created_at=datetime(2026, 11, 22, 7, 0, 0, 123456, tzinfo=UTC),
    created_by="tests",
)

Change = Callable[[dict[str, Any]], object]


def manifest(change: Change = lambda _: None) -> bytes:
    wire = json.loads(artifact_of(VERSION).manifest)
    change(wire)
    return json.dumps(wire).encode()


def recorded(**fields: Any) -> Change:
    """Change what our own annotation says."""

    def change(wire: dict[str, Any]) -> None:
        record = json.loads(wire["annotations"][RECORD])
        wire["annotations"][RECORD] = json.dumps(record | fields)

    return change


def test_a_version_comes_back_whole() -> None:
    artifact = artifact_of(VERSION)
    entry = read_index(artifact.index)
    assert (entry.digest, entry.size) == (sha256(artifact.manifest), len(artifact.manifest))
    content = read_manifest(artifact.manifest)
    assert content.version == VERSION
    assert (content.config.digest, content.config.size) == (sha256(artifact.config), len(artifact.config))
    assert read_name(artifact.config, content.files) == "fraud"


def test_the_manifest_is_that_of_modelpack_and_each_layer_is_a_file() -> None:
    wire = json.loads(artifact_of(VERSION).manifest)
    assert wire["schemaVersion"] == 2
    assert wire["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert wire["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert wire["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert {
        layer["annotations"]["org.cncf.model.filepath"]: (layer["digest"], layer["size"])
        for layer in wire["layers"]
    } == {file.path: (file.digest, file.size) for file in FILES}
    assert {
        layer["annotations"]["org.cncf.model.filepath"]: layer["mediaType"] for layer in wire["layers"]
    } == {
        "model.skops": "application/vnd.cncf.model.weight.v1.raw",
        "same": "application/vnd.cncf.model.weight.v1.raw",
        "empty": "application/vnd.cncf.model.weight.v1.raw",
        "README.md": "application/vnd.cncf.model.doc.v1.raw",
        "conf/params.json": "application/vnd.cncf.model.weight.config.v1.raw",
        "serve.py": "application/vnd.cncf.model.code.v1.raw",
    }


def test_the_config_has_only_keys_that_modelpack_has() -> None:
    """Its JSON schema allows no others."""
    artifact = artifact_of(VERSION)
    layers = json.loads(artifact.manifest)["layers"]
    assert json.loads(artifact.config) == {
        "descriptor": {
            "createdAt": "2026-11-22T07:00:00.123456Z",
            "name": "fraud",
            "version": "3",
            "description": "Größe",
        },
        "config": {"format": "sklearn-skops"},
        "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
    }


def test_the_index_has_one_manifest_with_the_number_as_its_tag() -> None:
    [entry] = json.loads(artifact_of(VERSION).index)["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "3"}


def test_another_tools_artifact_has_files_and_no_version() -> None:
    content = read_manifest(manifest(lambda wire: wire.pop("annotations")))
    assert content.version is None
    assert content.files == VERSION.files


def set_layer(**fields: Any) -> Change:
    return lambda wire: wire["layers"][0].update(fields)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda wire: wire.update(artifactType="application/vnd.example"), "not a model"),
        (
            lambda wire: wire["config"].update(mediaType="application/vnd.oci.image.config.v1+json"),
            "not a model",
        ),
        (set_layer(mediaType="application/vnd.cncf.model.weight.v1.tar"), "only raw layers"),
        (set_layer(mediaType="application/vnd.cncf.model.weight.v1.tar+gzip"), "only raw layers"),
        (set_layer(annotations={}), "has no name"),
        (set_layer(size=-1), "cannot be understood"),
        (set_layer(size=True), "cannot be understood"),
        (set_layer(digest="sha256:../../x"), "cannot be understood"),
        (set_layer(digest="md5:0"), "cannot be understood"),
        (lambda wire: wire["config"].update(digest="sha256:" + "A" * 64), "cannot be understood"),
        (recorded(schema="modelyard.version/2"), "upgrade modelyard"),
        (recorded(metrics={"auc": float("inf")}), "cannot be understood"),
        (recorded(model=7), "cannot be understood"),
        (recorded(variants=[{}]), "cannot be understood"),
        (recorded(created_at="yesterday"), "cannot be understood"),
        (lambda wire: wire["annotations"].update({RECORD: "[" * 100_000}), "cannot be understood"),
    ],
)
def test_what_is_no_such_artifact_is_refused_with_a_reason(change: Change, told: str) -> None:
    with pytest.raises(InvalidArchive, match=told):
        read_manifest(manifest(change))


@pytest.mark.parametrize(
    "change",
    [
        recorded(digest="sha256:" + "0" * 64),
        lambda wire: wire["layers"].pop(),
        lambda wire: wire["layers"].append(
            {**wire["layers"][0], "annotations": {"org.cncf.model.filepath": "one-more"}}
        ),
        set_layer(digest="sha256:" + "1" * 64),
        set_layer(annotations={"org.cncf.model.filepath": "renamed"}),
    ],
)
def test_files_must_be_those_that_the_recorded_digest_stands_for(change: Change) -> None:
    with pytest.raises(IntegrityError):
        read_manifest(manifest(change))


@pytest.mark.parametrize("path", UNSAFE_PATHS)
def test_unsafe_paths_are_refused(path: str) -> None:
    with pytest.raises(InvalidPath):
        read_manifest(manifest(set_layer(annotations={"org.cncf.model.filepath": path})))


def test_a_config_about_other_layers_is_refused() -> None:
    with pytest.raises(IntegrityError):
        read_name(artifact_of(VERSION).config, VERSION.files[1:])


def test_an_index_of_several_manifests_is_refused() -> None:
    index = json.loads(artifact_of(VERSION).index)
    index["manifests"] *= 2
    with pytest.raises(InvalidArchive, match="2 manifests"):
        read_index(json.dumps(index).encode())


NUMBERS = st.integers() | st.floats(allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
FIELDS = st.sampled_from(["schemaVersion", "artifactType", "config", "layers", "annotations"])


@settings(max_examples=40, deadline=None)
@given(FIELDS, JSON)
def test_any_json_is_read_or_refused_with_one_of_our_errors(field: str, value: object) -> None:
    for read in (read_index, read_manifest):
        for content in (json.dumps(value).encode(), manifest(lambda wire: wire.update({field: value}))):
            with contextlib.suppress(ModelyardError):
                read(content)

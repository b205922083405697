import sys
from pathlib import Path

import onnx
import pytest
from modelyard import ModelyardError, Signature, Tensor, Variant
from modelyard._formats import describe, guess
from modelyard._manifest import collect
from onnx import TensorProto, helper

from tests.unit.sdk_fake import file_of


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["MLmodel", "model.skops", "model.onnx"], "mlflow"),
        (["sub/MLmodel"], "files"),
        (["model.skops"], "sklearn-skops"),
        (["sub/anything.skops", "model.onnx"], "sklearn-skops"),
        (["m.onnx", "weights.bin"], "onnx"),
        (["a.onnx", "b.onnx"], "files"),
        (["a.skops", "b.skops", "c.onnx"], "onnx"),
        (["a.pkl"], "files"),
        (["onnx", ".onnxx", "skops"], "files"),
    ],
)
def test_the_format_is_guessed_from_names(paths: list[str], expected: str) -> None:
    assert guess([file_of(path, b"") for path in paths]) == expected


@pytest.mark.parametrize(
    ("name", "paths", "expected"),
    [
        ("mlflow", ["MLmodel", "x.onnx"], [Variant("mlflow", ".")]),
        ("sklearn-skops", ["a/b.skops"], [Variant("sklearn-skops", "a/b.skops")]),
        (
            "sklearn-skops",
            ["m.skops", "m.onnx"],
            [Variant("sklearn-skops", "m.skops"), Variant("onnx", "m.onnx")],
        ),
        ("sklearn-skops", ["m.skops", "1.onnx", "2.onnx"], [Variant("sklearn-skops", "m.skops")]),
        ("files", ["m.skops"], []),
        ("xgboost", ["m.ubj"], []),
    ],
)
def test_the_variants_follow_from_the_format(name: str, paths: list[str], expected: list[Variant]) -> None:
    described = describe(Path(), [file_of(path, b"") for path in paths], name, ())
    assert described.variants == tuple(expected)


@pytest.mark.parametrize("name", ["mlflow", "sklearn-skops", "onnx"])
def test_a_format_whose_file_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ModelyardError, match="needs"):
        describe(Path(), [file_of("a.txt", b"")], name, ())


def test_of_several_candidates_the_caller_must_choose() -> None:
    files = [file_of("a.skops", b""), file_of("b.skops", b"")]
    with pytest.raises(ModelyardError, match=r"found 2.*variants="):
        describe(Path(), files, "sklearn-skops", ())
    chosen = (Variant("sklearn-skops", "b.skops"),)
    assert describe(Path(), files, "sklearn-skops", chosen).variants == chosen


def save_graph(path: Path, kind: int = TensorProto.FLOAT) -> None:
    value = [helper.make_tensor_value_info(name, kind, ["batch", 3, None]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


def test_the_signature_of_an_onnx_file_is_read_from_its_graph(tmp_path: Path) -> None:
    save_graph(tmp_path / "m.onnx")
    described = describe(tmp_path, collect(tmp_path), "onnx", ())
    expected = [(Tensor(name, "FP32", (-1, 3, -1)),) for name in ("x", "y")]
    assert described.signature == Signature(*expected)
    assert described.note is None
    assert (
        describe(tmp_path / "m.onnx", collect(tmp_path / "m.onnx"), "onnx", ()).signature
        == described.signature
    )


def test_a_graph_that_cannot_be_described_is_noted(tmp_path: Path) -> None:
    save_graph(tmp_path / "m.onnx", TensorProto.BFLOAT16)
    described = describe(tmp_path, collect(tmp_path), "onnx", ())
    assert described.signature is None
    assert "bfloat16" in (described.note or "")


def test_a_file_that_is_no_graph_is_noted(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("not a graph")
    described = describe(tmp_path, collect(tmp_path), "onnx", ())
    assert described.signature is None
    assert "cannot load" in (described.note or "")


def test_without_onnxruntime_the_signature_is_left_out_and_that_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_graph(tmp_path / "m.onnx")
    monkeypatch.delitem(sys.modules, "modelyard._onnx", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    described = describe(tmp_path, collect(tmp_path), "onnx", ())
    assert described.signature is None
    assert "onnxruntime" in (described.note or "")

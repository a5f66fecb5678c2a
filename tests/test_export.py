"""Exports run without the project, in any batch size, and give the original's embeddings."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from retrieval_project import make
from turns import require_turn

from lrec import export
from lrec.embedding import graph
from lrec.metrics import recall
from lrec.retrieve import Database


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    make(root, folder)
    return folder


@pytest.fixture(autouse=True)
def project(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def run(file: Path, images: np.ndarray) -> np.ndarray:
    """Run an exported file with what its format is made for."""
    if file.suffix == ".onnx":
        session = __import__("onnxruntime").InferenceSession(file)
        return session.run(["embeddings"], {"images": images})[0]
    network = torch.jit.load(file) if file.suffix == ".ts" else torch.export.load(file).module()
    return network(torch.from_numpy(images)).detach().numpy()


ABOUT = {"image_size": 32, "resize": "squash", "crop": "none", "images": "RGB, 0 to 1", "kind": "logits"}


def noted(file: Path) -> dict:
    """Return what a graph says about itself."""
    session = __import__("onnxruntime").InferenceSession(file)
    return json.loads(session.get_modelmeta().custom_metadata_map["lrec"])


@pytest.mark.parametrize(
    ("kind", "name"), [("onnx", "model.onnx"), ("torchscript", "model.ts"), ("exported", "model.pt2")]
)
@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:FutureWarning")
def test_embeds_like_the_pipeline(kind: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    if kind == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason="optional: pip install -r requirements-extra.txt")
    monkeypatch.setattr(sys, "argv", ["export", "tiny/resnet18", "--format", kind])
    assert export.main() == 0
    assert f"exported/tiny/resnet18/{kind}: differs from the original by at most" in capsys.readouterr().out
    database = Database.load("tiny/resnet18")
    pixels = np.stack([database.image(row) for row in range(5)])
    images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32) / 255
    found = run(Path("exported/tiny/resnet18", kind, name), images)
    np.testing.assert_allclose(found, database.parts[0][:5], atol=1e-4)
    if kind == "onnx":
        assert noted(Path("exported/tiny/resnet18/onnx/model.onnx")) == ABOUT | {"weights": database.facts["weights"]}


@pytest.mark.parametrize("there", ["thesis.txt", "sub/notes", ".draft.tmp"])
def test_a_folder_of_other_files_is_left_alone(there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    (tmp_path / "out" / there).parent.mkdir(parents=True)
    (tmp_path / "out" / there).write_text("mine")
    command = ["export", "tiny/resnet18", "--format", "torchscript", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    assert export.main() == 1
    error = capsys.readouterr().err
    assert f"out: found {Path(there).parts[0]}, expected a new or empty folder, or one with only model.onnx" in error
    with pytest.raises(ValueError, match="name another folder"):
        export.export("tiny", "resnet18", "torchscript", tmp_path / "out")
    with pytest.raises(ValueError, match="only embeddings.npy, index.csv, database.json, codes.npy, model in it"):
        Database.load("tiny/resnet18").save(tmp_path / "out")
    with pytest.raises(ValueError, match="out: found|notes: found|thesis.txt: found|draft.tmp: found"):
        Database.load("tiny/resnet18").save(tmp_path / "out" / there)
    assert (tmp_path / "out" / there).read_text() == "mine"


def test_one_that_differs_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(export.FORMATS, "exported", lambda network, example, folder: lambda x: network(x) + 0.001)
    with pytest.raises(ValueError, match="differ by 1.0e-03, expected 1e-04"):
        export.export("tiny", "resnet18", "exported", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_exports_into_one_folder_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """However the folder is named."""
    monkeypatch.setitem(export.FORMATS, "exported", lambda network, example, folder: network)
    target = os.path.relpath(tmp_path / "out")
    require_turn(tmp_path / "out", lambda: export.main(["tiny/resnet18", "--format", "exported", "--output", target]))
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny", "expected <variant>/<backbone>"),
        ("tiny/resnet34", "models/tiny/resnet34: not found"),
        ("Tiny/resnet18", "no folder 'Tiny' in "),
        ("Tiny/resnet18", "'tiny' is there, which differs only in case"),
        ("results/tiny/resnet18", "expected <variant>/<backbone>"),
    ],
)
def test_errors(name: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(sys, "argv", ["export", name, "--format", "exported"])
    assert export.main() == 1
    assert message in capsys.readouterr().err


def test_a_run_may_be_named_by_its_folder_of_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    """As a shell completes it."""
    arguments = ["models/tiny/resnet18/", "--format", "torchscript", "--output", str(tmp_path / "out")]
    assert export.main(arguments) == 0
    assert (tmp_path / "out/model.ts").is_file()


@pytest.mark.slow  # of a network above 2 GB, in name
def test_onnx_is_one_file_or_says_two(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """The exporter by itself puts weights of any size in a second file, without which the first does not load."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="ONNX is an extra: pip install onnx onnxruntime onnxscript")
    target = Path("exported/tiny/resnet18/onnx")
    for limit, written in ((graph.ONE_FILE, ["model.onnx"]), (1000, ["model.onnx", "model.onnx.data"])):
        monkeypatch.setattr(graph, "ONE_FILE", limit)
        monkeypatch.setattr(sys, "argv", ["export", "tiny/resnet18"])
        assert export.main() == 0
        assert sorted(entry.name for entry in target.iterdir()) == written
        said = "two files, model.onnx and model.onnx.data; keep them together" in capsys.readouterr().out
        assert said == (len(written) == 2)
        assert noted(target / "model.onnx").items() >= ABOUT.items()


def test_quantised_it_keeps_its_recall(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """From a graph in two files to one, as of an ensemble that is too large for a file until it is quantised."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="ONNX is an extra: pip install onnx onnxruntime onnxscript")
    weights = Path("models/tiny/resnet18/model.safetensors").stat().st_size
    monkeypatch.setattr(graph, "ONE_FILE", weights // 2)
    monkeypatch.setattr(export, "LOSS", -2)
    assert export.main(["tiny/resnet18", "--quantize", "int8"]) == 0
    target = Path("exported/tiny/resnet18/int8")
    assert sorted(entry.name for entry in target.iterdir()) == ["model.onnx", "quantization.json"]
    assert (target / "model.onnx").stat().st_size < 0.3 * weights
    facts = json.loads((target / "quantization.json").read_text())
    assert (facts["queries"], facts["calibration_images"]) == (24, 16)
    assert noted(target / "model.onnx").items() >= ABOUT.items()
    before, after = facts["recall_at_1"]["float32"], facts["recall_at_1"]["int8"]
    assert after >= before - 0.1
    said = capsys.readouterr()
    assert f"int8: R@1 {100 * after:.1f} in int8, {100 * before:.1f} in float32, of 24 queries" in said.out
    assert f"WARNING: {target}: int8 loses " in said.err
    monkeypatch.setattr(export, "LOSS", 2)
    export._tell(target, facts)
    assert "loses" not in capsys.readouterr().err
    # What was measured is the file: its embeddings are near the database's, and give that recall.
    database = Database.load("tiny/resnet18")
    pixels = np.stack([database.image(row) for row in range(len(database))])
    images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32) / 255
    found = run(target / "model.onnx", images)
    assert (found * database.parts[0]).sum(1).min() > 0.9
    assert np.abs(found - database.parts[0]).max() > 1e-4
    assert recall.recall_at_k(found, list(database.index["class"]), [1])[1] == after


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny/resnet18", "--format", "torchscript"], "--quantize: has no effect with --format torchscript"),
        (["shop/resnet18"], "--quantize: found no training images"),
        (["gone/resnet18"], "data/processed/gone"),
    ],
)
def test_what_is_not_quantised(arguments: list[str], message: str, project: Path, monkeypatch, capsys):
    shutil.copytree(project / "models/tiny", project / "models/gone", dirs_exist_ok=True)
    monkeypatch.setitem(export.FORMATS, "onnx", lambda network, example, folder: network)
    assert export.main([*arguments, "--quantize", "int8"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line

"""`embed.reduce` from end to end: what is embedded, evaluated, reported, searched and exported is reduced alike."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_pipeline import COMBINATION, STAGES, refused, write_settings

from lrec import export, params, paths
from lrec.embedding import graph, reduction
from lrec.model import saved
from lrec.retrieve import Database
from lrec.retrieve import __main__ as retrieve

UPTO = "train"
NAME = "mobilenet_v2 (M=2, features, whitened 6)"


def choose(folder: Path, **changes: object) -> None:
    settings = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    settings["embed"] |= {"kind": "features", "reduce": "whitened", "dimensions": 6} | changes
    write_settings(folder, settings)


@pytest.fixture(autouse=True)
def telling(project: Path) -> None:
    """Measure batch-norm statistics: after a step or two of training, features are alike for all images."""
    folder = paths.model(*COMBINATION)
    ensemble, config = saved.load(folder)
    for module in ensemble.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    pixels = torch.from_numpy(np.load("data/processed/tiny/images.npy").transpose(0, 3, 1, 2).astype(np.float32))
    mean, std = (torch.tensor(config["normalization"][name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        ensemble.train()((pixels / 255 - mean) / std)
    saved.save(ensemble, folder, config)


def published() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths.embeddings(*COMBINATION).iterdir()}


def whole(rows: list[int]) -> np.ndarray:
    """The network's own embeddings of some rows of the store."""
    ensemble, config = saved.load(paths.model(*COMBINATION))
    pixels = np.load("data/processed/tiny/images.npy")[rows].transpose(0, 3, 1, 2)
    network = graph.Embedding(ensemble, config["normalization"], "features")
    with torch.no_grad():
        return network(torch.from_numpy(pixels.astype(np.float32) / 255)).numpy()


def test_from_end_to_end(project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    choose(project, untrained=True)
    for stage in ("embed", "evaluate", "report"):
        STAGES[stage]()

    # The reduction is that of the network's embeddings of the training images, done without it.
    train, test = whole(range(12)), whole(range(12, 20))
    centred = (train - train.mean(0)).astype(np.float64)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    folder = paths.embeddings(*COMBINATION)
    for name, rows in (("train", train), ("test", test)):
        expected = (rows - train.mean(0)) @ directions[:6].T / values[:6]
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        stored = np.load(folder / f"{name}.npy")
        np.testing.assert_allclose(stored @ stored.T, expected @ expected.T, atol=1e-3)
    assert np.load(folder / "untrained_test.npy").shape == (8, 6)
    assert not (folder / "untrained_train.npy").exists()
    facts = json.loads((folder / "embedding.json").read_text())
    assert (facts["dimensions"], facts["reduce"]) == (6, "whitened")
    assert facts["audit"]["largest"] < 1e-4

    # Evaluation and report leave out what needs single branches, and say what was evaluated.
    result = json.loads(paths.result(*COMBINATION).read_text())
    assert list(result["analysis"]) == ["images", "classes", "compression"]
    assert {"kind": "features", "reduce": "whitened", "dimensions": 6}.items() <= result["embedding"].items()
    assert "reduction" not in result["embedding"]
    assert list(json.loads(paths.LEDGER.read_text())["tiny"]) == [NAME]
    tables = paths.TABLES.read_text()
    assert f"| {NAME} " in tables
    assert "Recall@1 over the number of branches" not in tables
    assert "signs" not in tables
    assert "| binary " in tables
    assert NAME in paths.REPORT.read_text()
    assert list(json.loads(paths.RECALL.read_text())["tiny"]) == ["mobilenet_v2 (features, whitened)"]
    STAGES["check"]()

    # A search with a file finds the image itself.
    database = Database.load("tiny/mobilenet_v2")
    assert database.width == 6
    image = project / "raw/tiny" / database.index["path"][3]
    scores, rows = database.search(image, 1)
    assert rows.tolist() == [[3]]
    assert scores[0, 0] == pytest.approx(1, abs=1e-4)
    monkeypatch.setattr(sys, "argv", ["retrieve", "--query", str(image), "--database", "tiny/mobilenet_v2"])
    assert retrieve.main() == 0
    assert "8 images, 6 dimensions" in capsys.readouterr().out

    # So does an exported network, and it can be had whole as well.
    pixels = np.stack([database.image(row) for row in range(8)]).transpose(0, 3, 1, 2)
    given = torch.from_numpy(np.ascontiguousarray(pixels, np.float32) / 255)
    export.export(*COMBINATION, "exported", Path("whole"), "features")
    assert torch.export.load("whole/model.pt2").module()(given).shape == (8, 2560)
    export.export(*COMBINATION, "exported", Path("short"))
    found = torch.export.load("short/model.pt2").module()(given).detach().numpy()
    np.testing.assert_allclose(found, np.load(folder / "test.npy"), atol=1e-3)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="optional: pip install -r requirements-extra.txt")
    export.export(*COMBINATION, "onnx", Path("onnx"))
    session = __import__("onnxruntime").InferenceSession("onnx/model.onnx")
    found = session.run(["embeddings"], {"images": given.numpy()})[0]
    np.testing.assert_allclose(found, np.load(folder / "test.npy"), atol=1e-3)
    noted = json.loads(session.get_modelmeta().custom_metadata_map["lrec"])
    assert all(noted[key] == database.facts[key] for key in ("weights", "kind", "reduction_digest"))


def test_another_reduction_is_refused(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    choose(project)
    STAGES["embed"]()
    database = Database.load("tiny/mobilenet_v2")
    database.save("saved")
    database.save(tmp_path / "carried", with_model=True)
    image = next((project / "raw/tiny/test").rglob("*.png"))
    assert Database.load("saved").search(image, 1)[0][0, 0] == pytest.approx(1, abs=1e-4)
    choose(project, reduce="pca")
    STAGES["embed"]()
    assert Database.load("tiny/mobilenet_v2").search(image, 1)[0][0, 0] == pytest.approx(1, abs=1e-4)
    monkeypatch.chdir(tmp_path)
    for name in ("carried", "again"):  # the second time from a database that carries its model already
        carried = Database.load(name)
        assert carried.search(image, 1)[0][0, 0] == pytest.approx(1, abs=1e-4)
        carried.save("again")
    assert '"reduction": "model/reduction.safetensors"' in Path("again/database.json").read_text()
    monkeypatch.chdir(project)
    stale = Database.load("saved")
    assert stale.search(stale.parts[0][:1], 1)[1] == [[0]]
    with pytest.raises(ValueError, match=r"^embeddings/tiny/mobilenet_v2/reduction\.safetensors: found another reduc"):
        stale.search(image, 1)
    paths.reduction(*COMBINATION).unlink()
    with pytest.raises(FileNotFoundError, match=r"reduction\.safetensors: not found; run `dvc repro` \(stage embed\)"):
        Database.load("tiny/mobilenet_v2").search(image, 1)
    with pytest.raises(FileNotFoundError, match=r"reduction\.safetensors: not found"):
        export.export(*COMBINATION, "torchscript", Path("out"))
    facts = paths.embedding_facts(*COMBINATION)
    said = facts.read_text().replace('"weights": "', '"weights": "' + "0" * 64 + '", "x": "')
    facts.unlink()
    facts.write_text(said)
    with pytest.raises(ValueError, match=r"embedding\.json: made with other weights than models/tiny"):
        export.export(*COMBINATION, "torchscript", Path("out"))


def test_too_many_dimensions_are_refused_before_any_work(project: Path, capsys: pytest.CaptureFixture[str]):
    """Twelve training images span eleven dimensions, and logits of two branches have four."""
    for stage in ("train", "embed"):
        choose(project, dimensions=12)
        line = refused(STAGES[stage], capsys)
        assert "params.yaml: embed.dimensions: found 12, expected at most 11 with 12 training images" in line
        choose(project, dimensions=5, kind="logits")
        assert "embed.dimensions: found 5, expected at most 4 with" in refused(STAGES[stage], capsys)
    choose(project, dimensions=12, reduce="none")
    assert params.load().embed.dimensions == 12
    STAGES["embed"]()
    choose(project, dimensions=4, kind="logits")
    STAGES["embed"]()
    assert np.load(paths.embeddings(*COMBINATION) / "test.npy").shape == (8, 4)


def test_killed_while_fitting_and_run_again_gives_the_same_bytes(project: Path, root: Path):
    choose(project)
    script = (
        "import sys, time; from lrec.embedding import reduction; from stages import embed\n"
        "plain = reduction._blocks\n"
        "def slow(*of):\n"
        "    print('fitting', flush=True); time.sleep(60); yield from plain(*of)\n"
        "reduction._blocks = slow\n"
        "embed.main('tiny', 'mobilenet_v2')\n"
    )
    threads = str(torch.get_num_threads())
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": threads},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    while "fitting" not in process.stdout.readline():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(Path(".lrec/embed").glob("tiny/*/*/whole/train.npy"))
    STAGES["embed"]()
    resumed = published()
    assert reduction.FILE in resumed
    assert not Path(".lrec/embed/tiny/mobilenet_v2").exists()
    STAGES["embed"]()
    assert published() == resumed

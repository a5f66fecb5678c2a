"""Extraction fills its array exactly once per image, goes on after a kill, and is shared by processes."""

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

from lrec.data import store
from lrec.data.batches import Images
from lrec.embedding import batch_norm, extract
from lrec.embedding.extract import Options
from lrec.embedding.journal import Journal
from lrec.model import weights
from lrec.model.ensemble import Ensemble
from stages import embed as embed_stage
from stages import evaluate as evaluate_stage

OPTIONS = Options(batch_size=4)


def images(packed: store.Store, rows: np.ndarray) -> Images:
    return Images(packed.images, rows, **store.IMAGENET)


def naive(network: Ensemble, packed: store.Store, rows: np.ndarray) -> np.ndarray:
    """The baseline loop: one image after the other, contiguous, nothing folded."""
    mean, std = (torch.tensor(store.IMAGENET[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        images = [torch.from_numpy(packed.images[row].copy()).permute(2, 0, 1) / 255 for row in rows]
        return np.concatenate([network.eval().embed(((x - mean) / std)[None].contiguous()).numpy() for x in images])


@pytest.mark.parametrize(("batch_size", "workers"), [(7, 0), (100, 2)])
def test_equals_the_baseline_loop(tiny_store: store.Store, batch_size: int, workers: int):
    rows = tiny_store.rows("test")[::-1]
    expected = naive(Ensemble("resnet18", 2, 5), tiny_store, rows)
    out = np.full((15, 10), np.nan, np.float32)
    options = Options(batch_size=batch_size, workers=workers)
    network = batch_norm.fold(Ensemble("resnet18", 2, 5))
    extract.extract(network, images(tiny_store, rows), out, options)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)


def test_features_and_half_precision(tiny_store: store.Store):
    rows = tiny_store.rows("test")
    network = batch_norm.fold(Ensemble("resnet18", 2, 5))
    whole, half = np.empty((15, 1024), np.float32), np.empty((15, 1024), np.float16)
    for out in (whole, half):
        extract.extract(network, images(tiny_store, rows), out, Options("features", batch_size=8))
    np.testing.assert_array_equal(half, whole.astype(np.float16))
    np.testing.assert_allclose(np.linalg.norm(whole.reshape(15, 2, 512), axis=2), 2**-0.5, rtol=1e-5)


def test_batches_that_are_done_are_left_alone(tiny_store: store.Store, tmp_path: Path):
    rows, network = tiny_store.rows("train"), Ensemble("resnet18", 1, 5)
    plain = np.empty((30, 5), np.float32)
    extract.extract(network, images(tiny_store, rows), plain, OPTIONS)
    path = tmp_path / "train.npy"
    Journal.create(path, (30, 5), "float32", 8)
    first = Journal(path)
    first.array[4:8] = 7
    first.note(1)
    first.save()
    Journal.create(path, (30, 5), "float32", 8)
    extract.fill(path, network, images(tiny_store, rows), "float32", OPTIONS)
    filled = np.load(path)
    assert (filled[4:8] == 7).all()
    np.testing.assert_array_equal(np.delete(filled, np.s_[4:8], 0), np.delete(plain, np.s_[4:8], 0))


def test_shares_add_up_to_the_whole(tiny_store: store.Store):
    rows, network = tiny_store.rows("train"), Ensemble("resnet18", 1, 5)
    whole, shared = np.empty((30, 5), np.float32), np.full((30, 5), np.nan, np.float32)
    extract.extract(network, images(tiny_store, rows), whole, OPTIONS)
    for rank in range(3):
        before = np.isfinite(shared).all(1).sum()
        extract.extract(network, images(tiny_store, rows), shared, OPTIONS, part=(rank, 3))
        assert np.isfinite(shared).all(1).sum() - before == [12, 10, 8][rank]
    np.testing.assert_array_equal(shared, whole)


def published(project: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (project / "embeddings/glyphs/resnet18").iterdir()}


def test_killed_and_run_again_gives_the_same_bytes(project: Path, root: Path, monkeypatch: pytest.MonkeyPatch):
    script = "from lrec.embedding import journal; journal.SAVE_SECONDS = 0\nfrom stages import embed\n"
    process = subprocess.Popen(
        [sys.executable, "-c", script + "embed.main('glyphs', 'resnet18')"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    work = project / ".lrec/embed/glyphs/resnet18"
    done: list[Path] = []
    while not (done and done[0].read_bytes().count(1) >= 3):
        assert process.poll() is None
        time.sleep(0.005)
        done = list(work.glob("*/train.done"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = done[0].read_bytes().count(1)
    assert kept < 30
    assert not (project / "embeddings").exists()

    passes = []
    plain = Ensemble.embed
    monkeypatch.setattr(Ensemble, "embed", lambda *arguments: passes.append(1) or plain(*arguments))
    monkeypatch.chdir(project)
    embed_stage.main("glyphs", "resnet18")
    resumed, resumed_passes = published(project), len(passes)
    assert {"train.npy", "test.npy", "embedding.json"} == set(resumed)
    assert not work.exists()
    passes.clear()
    embed_stage.main("glyphs", "resnet18")
    assert resumed_passes == len(passes) - kept
    assert published(project) == resumed


def test_a_failed_audit_stops_the_evaluation(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project)
    embed_stage.main("glyphs", "resnet18")
    facts = project / "embeddings/glyphs/resnet18/embedding.json"
    found = json.loads(facts.read_text())
    assert found["audit"]["images"] == 15
    assert found["dimensions"] == 5
    assert found["data"] == store.digest(project / "data/processed/glyphs")
    found["audit"] |= {"sorted": 0.5, "largest": 0.5}
    facts.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"^embeddings/glyphs/resnet18: embedded sorted, .* differ by 0\.5, [^\n]+$"):
        evaluate_stage.main("glyphs", "resnet18")
    assert not (project / "results").exists()


def test_a_weights_file_that_was_replaced_is_noticed(tmp_path: Path):
    """The network as it was before training would be another one."""
    path, folder = tmp_path / "w.pth", Path("models/glyphs/resnet18")
    path.write_bytes(b"then")
    config = {"weights": weights.describe("resnet18", str(path))}
    assert embed_stage.require_start(folder, config, "resnet18", str(path)) == config["weights"]
    path.write_bytes(b"now")
    with pytest.raises(
        ValueError, match=r"train\.weights: found w\.pth .*, but models/glyphs/resnet18 was trained from w"
    ):
        embed_stage.require_start(folder, config, "resnet18", str(path))


@pytest.mark.slow
def test_two_processes_equal_one(project: Path, root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project)
    embed_stage.main("glyphs", "resnet18")
    alone = published(project)
    command = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "stages.embed"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *command, "glyphs", "resnet18"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    together = published(project)
    assert alone.keys() == together.keys()
    for name in ("train.npy", "test.npy"):
        shapes = [np.frombuffer(found[name][128:], np.float32) for found in (alone, together)]
        np.testing.assert_allclose(*shapes, rtol=0, atol=1e-5)

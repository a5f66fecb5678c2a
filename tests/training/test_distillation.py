"""Distillation: a network learns to embed images as a teacher does."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lrec.data.batches import Images
from lrec.data.store import Store
from lrec.model.ensemble import Ensemble
from lrec.training import loop
from lrec.training.checkpoint import Checkpoint
from lrec.training.loop import fit
from lrec.training.losses import DISTILLATION, LOSSES, right_ones
from lrec.training.recipe import Recipe

WIDTH = 6


def taught(packed: Store) -> np.ndarray:
    """A teacher that tells two groups of classes apart, and little else: (R, WIDTH) of unit norm."""
    rows = packed.rows("train")
    made = np.random.default_rng(0).normal(0, 0.1, (len(rows), WIDTH)).astype(np.float32)
    made[np.arange(len(rows)), packed.labels(rows) % 2] += 1
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def run(packed: Store, recipe: Recipe, checkpoint: Checkpoint | None = None):
    rows = packed.rows("train")
    targets = np.broadcast_to(taught(packed), (2, len(rows), WIDTH))
    ensemble = Ensemble("resnet18", 2, WIDTH)
    images = Images(packed.images, rows, **packed.normalization("dataset"))
    history = fit(ensemble, images, targets, recipe, checkpoint=checkpoint)
    return ensemble.state_dict(), history


def test_loss_is_the_distance_and_what_similarities_differ_by():
    own, teacher = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    expected = 0.0
    cosine = torch.nn.functional.cosine_similarity
    for one in range(5):
        expected += 1 - cosine(own[one], teacher[one], dim=0)
        for other in set(range(5)) - {one}:
            difference = cosine(own[one], own[other], dim=0) - cosine(teacher[one], teacher[other], dim=0)
            expected += difference**2
    found = LOSSES[DISTILLATION].make(0, 4, 0.0)(own, teacher)
    torch.testing.assert_close(found.double(), expected / 5, atol=1e-5, rtol=1e-5)
    scaled = LOSSES[DISTILLATION].make(0, 4, 0.0)(7 * teacher, teacher)
    assert float(scaled) == pytest.approx(0, abs=1e-5)


def test_an_image_counts_when_its_nearest_is_the_teachers():
    teacher = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 5]])
    assert right_ones(teacher * 3, teacher, is_metric=True) == 4
    assert right_ones(teacher[[0, 2, 1, 3]], teacher, is_metric=True) == 0


def test_learns_the_teacher(tiny_store: Store):
    recipe = Recipe(epochs=8, batch_size=15, learning_rate=1e-3, milestones=(), loss=DISTILLATION)
    _, history = run(tiny_store, recipe)
    assert history["loss"].iloc[-1] < 0.7 * history["loss"].iloc[0]


def test_a_stopped_training_resumes_bit_by_bit(tiny_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = Recipe(epochs=2, batch_size=10, learning_rate=1e-3, loss=DISTILLATION)
    expected, _ = run(tiny_store, recipe)
    original, steps = loop._step, []

    def stops(*arguments):
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(loop, "_step", stops)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_store, recipe, Checkpoint(tmp_path / "progress", minutes=1e-9))
    monkeypatch.setattr(loop, "_step", original)
    found, _ = run(tiny_store, recipe, Checkpoint(tmp_path / "progress", minutes=1e-9))
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_heads_start_at_the_ridge_regression(tiny_store: Store):
    """Without epochs, all but the heads is as it was, and they are what NumPy makes of the features."""
    start = Ensemble("resnet18", 2, WIDTH)
    found, history = run(tiny_store, Recipe(epochs=0, loss=DISTILLATION))
    assert list(history["epoch"]) == []
    assert all(torch.equal(found[key], value) for key, value in start.state_dict().items() if "classifier" not in key)
    rows = tiny_store.rows("train")
    images = Images(tiny_store.images, rows, **tiny_store.normalization("dataset"))
    with torch.no_grad():
        maps = start.eval().stem(images.normalize(torch.from_numpy(tiny_store.images[rows])))
        features = start.branches[1][:-1](maps).double().numpy()
    taught_ = taught(tiny_store).astype(np.float64)
    x, y = features - features.mean(0), taught_ - taught_.mean(0)
    inner = x.T @ x + 0.1 * (x**2).sum(0).mean() * np.eye(x.shape[1])
    weight = np.linalg.solve(inner, x.T @ y).T
    np.testing.assert_allclose(found["branches.1.classifier.weight"], weight, atol=1e-4 * abs(weight).max())
    bias = taught_.mean(0) - weight @ features.mean(0)
    np.testing.assert_allclose(found["branches.1.classifier.bias"], bias, atol=1e-4)

"""Losses: cross entropy is torch's, those of pytorch-metric-learning learn beside the network, and all resume."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_training import interrupted
from torch.nn.functional import cross_entropy

from lrec.data.batches import Images
from lrec.data.store import Store
from lrec.model.ensemble import Ensemble
from lrec.training.checkpoint import Checkpoint
from lrec.training.loop import balanced, fit
from lrec.training.losses import LOSSES, right_ones
from lrec.training.recipe import Recipe
from lrec.training.step import Trainer

METRIC = [name for name, loss in LOSSES.items() if loss.is_metric and not loss.taught]


def run(packed: Store, recipe: Recipe, outputs: int = 16, checkpoint: Checkpoint | None = None):
    rows = packed.rows("train")
    targets = np.stack([packed.labels(rows)] * 2)
    ensemble = Ensemble("resnet18", 2, outputs)
    images = Images(packed.images, rows, **packed.normalization("dataset"))
    history = fit(ensemble, images, targets, recipe, checkpoint=checkpoint)
    return ensemble.state_dict(), history


def test_cross_entropy_is_torchs():
    logits, targets = torch.randn(6, 4), torch.randint(0, 4, (6,))
    found = LOSSES["cross_entropy"].make(4, 4, 0.2)(logits, targets)
    torch.testing.assert_close(found, cross_entropy(logits, targets, label_smoothing=0.2))


def test_what_counts_as_right():
    logits = torch.tensor([[2.0, 1], [0, 1], [3, 0]])
    assert right_ones(logits, torch.tensor([0, 1, 1]), is_metric=False) == 2
    embeddings = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 5]])
    assert right_ones(embeddings, torch.tensor([0, 0, 1, 1]), is_metric=True) == 4
    assert right_ones(embeddings, torch.tensor([0, 1, 0, 1]), is_metric=True) == 0


@pytest.mark.parametrize("name", METRIC)
def test_metric_losses_learn(tiny_store: Store, name: str):
    recipe = Recipe(epochs=8, batch_size=15, learning_rate=1e-3, milestones=(), loss=name, images_per_class=5)
    _, history = run(tiny_store, recipe)
    assert np.isfinite(history["loss"]).all()
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert history["accuracy"].iloc[-1] > 0.5


@pytest.mark.parametrize("name", ["proxy_anchor", pytest.param("multi_similarity", marks=pytest.mark.slow)])
def test_a_stopped_training_resumes_bit_by_bit(tiny_store: Store, tmp_path: Path, name: str):
    """What the loss itself has learned is part of the checkpoint."""
    recipe = Recipe(epochs=2, batch_size=10, learning_rate=1e-3, loss=name)
    expected, history = run(tiny_store, recipe)
    with interrupted(4):
        run(tiny_store, recipe, checkpoint=Checkpoint(tmp_path / "c" / "a", 0))
    found, resumed = run(tiny_store, recipe, checkpoint=Checkpoint(tmp_path / "c" / "a", 1e9))
    assert resumed.equals(history)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_what_a_loss_learns_has_its_own_rate_and_its_own_start():
    recipe = Recipe(epochs=1, learning_rate=1e-3, loss="proxy_anchor", loss_learning_rate=0.1)
    trainer = Trainer(Ensemble("resnet18", 2, 8), recipe, classes=5)
    trainer.set_learning_rate(5e-4)  # half of the full rate
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in trainer.optimizers.items()}
    assert rates == pytest.approx({"stem": 5e-4, "0": 5e-4, "1": 5e-4, "loss.0": 0.05, "loss.1": 0.05})
    one, two = (trainer.losses[number].proxies for number in "01")
    assert one.shape == (5, 8)
    assert not torch.equal(one, two)


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_said_to_learn_has_parameters(name: str):
    assert bool(list(LOSSES[name].make(3, 8, 0).parameters())) == LOSSES[name].learns


def test_without_the_library_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "pytorch_metric_learning", None)
    with pytest.raises(ValueError, match=r"^train\.loss: .*; pip install pytorch-metric-learning$"):
        LOSSES["proxy_anchor"].make(3, 8, 0)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 5), st.integers(0, 99))
def test_balanced_batches_hold_runs_of_a_class(labels: list[int], count: int, seed: int):
    classes = np.array(labels)
    rows = np.arange(100, 100 + len(labels))
    order = balanced(rows, classes, count, np.random.default_rng(seed))
    assert sorted(order) == rows.tolist()
    found = classes[order - 100]
    # Runs of `count` images of a class come first, so batches of a multiple of `count` cut none of them.
    full = sum(np.bincount(classes) // count)
    assert all(len(set(run)) == 1 for run in found[: full * count].reshape(-1, count))
    starts = np.flatnonzero(np.diff(found, prepend=-1))
    lengths = np.diff([*starts, len(found)])
    # Each class has at most one run that is not a whole number of `count`, beside runs that meet.
    for label in set(labels):
        assert sum(length % count > 0 for length in lengths[found[starts] == label].tolist()) <= 1

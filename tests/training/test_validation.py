"""Validation holds out whole training classes, chooses the epoch by them, and stops early; test data plays no part."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrec.data import meta_classes
from lrec.data.batches import Images
from lrec.data.store import Store
from lrec.metrics import recall
from lrec.model.ensemble import Ensemble
from lrec.training import validation
from lrec.training.checkpoint import Checkpoint
from lrec.training.loop import fit
from lrec.training.recipe import Recipe
from lrec.training.state import State
from lrec.training.validation import Held


@given(st.integers(4, 60), st.floats(0.01, 0.9), st.integers(0, 99))
def test_whole_classes_are_held_out(classes: int, share: float, seed: int):
    labels = np.repeat(np.arange(classes), 3)
    if classes - max(2, round(share * classes)) < 2:
        with pytest.raises(ValueError, match=r"train\.validation_share: found .* expected at least two; lower it"):
            validation.hold_out(labels, share, seed)
        return
    held = validation.hold_out(labels, share, seed)
    assert not set(labels[held]) & set(labels[~held])
    assert len(set(labels[held])) == max(2, round(share * classes))
    assert np.array_equal(held, validation.hold_out(labels, share, seed))


def test_nothing_is_held_out_unless_asked_for_and_singles_are_refused():
    assert not validation.hold_out(np.arange(9), 0, 0).any()
    with pytest.raises(ValueError, match="classes held out have one image each"):
        validation.hold_out(np.arange(9), 0.3, 0)


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(0, 10**6))
def test_recall_is_that_of_the_evaluation(count: int, seed: int):
    """On integers, where ties are exact in any arithmetic."""
    generator = np.random.default_rng(seed)
    embeddings = generator.integers(-2, 3, (count, 3)).astype(np.float32)
    labels = generator.integers(0, 5, count)
    expected = recall.recall_at_k(embeddings, labels, [1])[1]
    assert validation.recall_at_1(torch.from_numpy(embeddings), torch.from_numpy(labels)) == expected


def run(packed: Store, epochs: int, patience: int, checkpoint: Checkpoint | None = None):
    rows = packed.rows("train")
    out = validation.hold_out(packed.labels(rows), 0.3, 0)
    images = Images(packed.images, rows, **packed.normalization("dataset"))
    held = Held(images.some(out), packed.labels(rows[out]))
    groups = meta_classes.assign(6, 3, 2, 0)[:, packed.labels(rows[~out])]
    ensemble = Ensemble("resnet18", 2, 3)
    chosen = Recipe(epochs=epochs, batch_size=8, learning_rate=1e-3, milestones=(), patience=patience)
    history = fit(ensemble, images.some(~out), groups, chosen, held=held, checkpoint=checkpoint)
    return ensemble.state_dict(), history


def scripted(monkeypatch: pytest.MonkeyPatch, *shares: float) -> None:
    found = iter(shares)
    monkeypatch.setattr(validation, "measure", lambda *_, **__: next(found))


def test_a_real_validation_is_a_recall(tiny_store: Store):
    _, history = run(tiny_store, epochs=2, patience=5)
    assert list(history.columns)[-1] == "validation_recall_at_1"
    assert history["validation_recall_at_1"].between(0, 100).all()
    assert history["validation_recall_at_1"].iloc[-1] > 50


def test_the_best_epoch_is_kept_and_patience_ends_the_training(tiny_store: Store, monkeypatch: pytest.MonkeyPatch):
    scripted(monkeypatch, 0.2, 0.6)
    second, _ = run(tiny_store, epochs=2, patience=9)
    scripted(monkeypatch, 0.2, 0.6, 0.5, 0.6, 0.9)
    found, history = run(tiny_store, epochs=9, patience=2)
    assert history["validation_recall_at_1"].tolist() == [20, 60, 50, 60]
    assert all(torch.equal(found[key], second[key]) for key in second)


def test_a_stopped_training_still_knows_its_best_epoch(tiny_store: Store, tmp_path: Path, monkeypatch):
    scripted(monkeypatch, 0.2, 0.6, 0.5, 0.4)
    expected, history = run(tiny_store, epochs=4, patience=9)
    saved = tmp_path / "c" / "mine"
    scripted(monkeypatch, 0.2, 0.6, 0.5)
    with pytest.raises(StopIteration):
        run(tiny_store, epochs=4, patience=9, checkpoint=Checkpoint(saved, 0))
    scripted(monkeypatch, 0.4)
    found, resumed = run(tiny_store, epochs=4, patience=9, checkpoint=Checkpoint(saved, 1e9))
    assert resumed.equals(history)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_early_stopping_by_hand():
    def stopped(*recalls: float) -> bool:
        history = [[number + 1, 0.1, 1.0, 0.5, value] for number, value in enumerate(recalls)]
        return State(epoch=len(recalls), history=history).stopped_early(2)

    assert [stopped(5), stopped(5, 4), stopped(5, 4, 3), stopped(5, 5, 5), stopped(5, 4, 6)] == [0, 0, 1, 1, 0]
    assert not State(epoch=3, history=[[1, 0.1, 1.0, 0.5]] * 3).stopped_early(2)

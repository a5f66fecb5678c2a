"""The training loop: the same seed gives the same bytes; options do what they say; what stops it."""

import numpy as np
import pytest
import torch
from small_training import changed, run, same, undisturbed

from lrec.data.store import Store
from lrec.io import progress
from lrec.training import augment, loop
from lrec.training.loop import Machine, cut
from lrec.training.recipe import Recipe
from lrec.training.state import State, Tally
from lrec.training.step import Trainer


@pytest.mark.parametrize(("count", "sizes"), [(12, [4, 4, 4]), (10, [4, 4, 2]), (9, [4, 5]), (3, [3])])
def test_every_image_is_in_one_batch(count: int, sizes: list[int]):
    parts = cut(np.arange(100, 100 + count), 4)
    assert [len(part) for part in parts] == sizes
    assert np.concatenate(parts).tolist() == list(range(100, 100 + count))


def test_an_epoch_ends_with_a_step_of_the_batches_that_are_left(tiny_store: Store, monkeypatch: pytest.MonkeyPatch):
    """Thirty images in batches of seven make five batches."""
    found = []

    def step(trainer: Trainer, batch: loop.Batch, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found.append((len(batch.rows), batch.together))
        return torch.zeros(2), torch.zeros(2)

    monkeypatch.setattr(loop, "_step", step)
    run(tiny_store, changed(epochs=1, batch_size=7, accumulate=3))
    assert found == [(7, 3), (7, 3), (7, 3), (7, 2), (2, 2)]


def test_same_seed_same_bytes_whatever_the_workers(tiny_store: Store):
    first, history = undisturbed(tiny_store)
    second, again = run(tiny_store, machine=Machine(workers=3))
    other, _ = run(tiny_store, changed(seed=1))
    assert history.equals(again)
    assert same(first, second)
    assert not same(first, other)


def test_training_learns_and_says_so(tiny_store: Store):
    _, history = run(tiny_store, changed(epochs=6, milestones=[0.5]))
    assert list(history.columns) == ["epoch", "learning_rate", "loss", "accuracy"]
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(history["learning_rate"], [1e-3] * 3 + [1e-4] * 3)
    assert history["loss"].iloc[-1] < 0.7 * history["loss"].iloc[0]
    assert history["accuracy"].iloc[-1] > 0.8


@pytest.mark.parametrize(
    "options", [{"random_crop": 0.5}, {"label_smoothing": 0.1}, {"weight_decay": 0.1}, {"schedule": "cosine"}]
)
def test_options_change_the_training(tiny_store: Store, options: dict):
    plain, _ = undisturbed(tiny_store, epochs=1)
    other, history = run(tiny_store, changed(epochs=1, **options))
    assert not same(plain, other)
    assert np.isfinite(history["loss"]).all()


def test_a_loss_that_is_not_finite_stops_at_once(tiny_store: Store):
    with pytest.raises(ValueError, match=r"the loss is nan in epoch 1, step \d, branch \d; .*lower train\.learning"):
        run(tiny_store, changed(learning_rate=1e30))


@pytest.mark.parametrize(
    "text", ["CUDA out of memory", "FIND was unable to find an engine to execute this computation"]
)
def test_out_of_memory_says_what_to_lower(tiny_store: Store, monkeypatch: pytest.MonkeyPatch, text: str):
    def refuse(*_) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr("lrec.training.step.Trainer.step", refuse)
    with pytest.raises(MemoryError, match=r"8 images of 32 px in a batch; lower train\.batch_size"):
        run(tiny_store)


def test_batches_too_small_for_the_processes(tiny_store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lrec.compute.collective.count", lambda: 5)
    with pytest.raises(ValueError, match=r"batch_size: found 8 of 30 images, expected at least 10, two for each of 5"):
        run(tiny_store, changed(parallel="data"))


def test_a_loss_is_read_late_but_named_right():
    """As on a GPU, whose figures are read one step late."""
    tally = Tally(State(epoch=2), progress.bar(9, "test", quiet=True), late=1)
    good, bad = torch.ones(2), torch.tensor([1.0, float("inf")])
    tally.add(4, good, good)
    assert tally.state.step == 0
    tally.add(4, bad, good)
    assert (tally.state.step, tally.state.seen, tally.state.loss) == (1, 4, 4.0)
    with pytest.raises(ValueError, match="the loss is inf in epoch 3, step 2, branch 1"):
        tally.read()


def test_warm_up_and_cosine():
    recipe = Recipe(epochs=10, learning_rate=1.0, schedule="cosine", warmup_epochs=2)
    rates = [recipe.rate(epoch, 1.0) for epoch in range(10)]
    np.testing.assert_allclose(rates[:2], [0.5, 1.0])
    assert rates[1:] == sorted(rates[1:], reverse=True)
    np.testing.assert_allclose(rates[5], 0.5)
    np.testing.assert_allclose(rates[-1], 0, atol=1e-12)


def test_random_crops_are_windows_of_the_image():
    """A ramp shows where each pixel came from."""
    size = 64
    ramp = torch.arange(size).float().repeat(2, 3, size, 1)
    changes = augment.draw(np.random.default_rng(0), 2, False, 0.25)
    cut = augment.crop(ramp, changes.windows)
    assert changes.flipped is None
    for image, (side, x, _) in zip(cut, changes.windows, strict=True):
        assert 0.5 <= side <= 1
        assert abs(x) <= 1 - side + 1e-6
        left, right = size * (x - side + 1) / 2, size * (x + side + 1) / 2
        np.testing.assert_allclose(image[0, 0, [0, -1]], [left, right - 1], atol=1)
    torch.testing.assert_close(augment.crop(ramp, torch.tensor([[1.0, 0, 0]] * 2)), ramp)

"""Streamed training gives the numbers of the plain loop, and the same bytes for the same seed."""

import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from lrec import meta_classes, model, train
from lrec.store import Store

RECIPE = {
    "batch_size": 8,
    "learning_rate": 1e-3,
    "milestones": [0.5],
    "gamma": 0.1,
    "flip": True,
    "seed": 0,
    "precision": "float32",
    "device": "cpu",
    "workers": 0,
}


def naive_step(ensemble: model.Ensemble, optimizer: torch.optim.Optimizer, images, targets) -> torch.Tensor:
    """The plain loop: all branches forward, one loss, one backward, one optimiser."""
    logits = ensemble(images)
    losses = torch.stack([cross_entropy(logits[:, m], targets[m]) for m in range(len(targets))])
    optimizer.zero_grad()
    losses.mean().backward()
    optimizer.step()
    return losses.detach()


def test_steps_equal_the_plain_loop():
    """In float64, where Adam does not blow rounding up to the size of a step."""
    generator = torch.Generator().manual_seed(0)
    plain = model.Ensemble("resnet18", 3, 4).double().to(memory_format=torch.channels_last).train()
    streamed = train.Trainer(copy.deepcopy(plain), 1e-3, "cpu")
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3, fused=True)
    for _ in range(4):
        images = torch.randn(6, 3, 32, 32, generator=generator).double().to(memory_format=torch.channels_last)
        targets = torch.randint(0, 4, (3, 6), generator=generator)
        expected = naive_step(plain, optimizer, images, targets)
        losses, _ = streamed.step(images, targets)
        torch.testing.assert_close(losses, expected, rtol=1e-7, atol=1e-9)
    for (name, one), other in zip(plain.state_dict().items(), streamed.model.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7, msg=name)


def test_gradients_equal_the_plain_loops():
    """With plain gradient descent in place of Adam the weights show the gradients themselves."""
    plain = model.Ensemble("resnet18", 3, 4).to(memory_format=torch.channels_last).train()
    streamed = train.Trainer(copy.deepcopy(plain), 1.0, "cpu")
    parts = [streamed.model.stem, *streamed.model.branches]
    streamed.optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in parts]
    images = torch.randn(6, 3, 32, 32).to(memory_format=torch.channels_last)
    targets = torch.randint(0, 4, (3, 6))
    naive_step(plain, torch.optim.SGD(plain.parameters(), lr=0.1), images, targets)
    streamed.step(images, targets)
    for (name, one), other in zip(plain.named_parameters(), streamed.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)


def test_counts_of_right_answers():
    trainer = train.Trainer(model.Ensemble("resnet18", 2, 3).train(), 1e-9, "cpu")
    images = torch.randn(9, 3, 32, 32)
    with torch.no_grad():
        answers = copy.deepcopy(trainer.model)(images).argmax(2).T
    _, right = trainer.step(images, answers)
    assert right.tolist() == [9, 9]


def test_only_one_branch_has_gradients_at_a_time():
    trainer = train.Trainer(model.Ensemble("resnet18", 3, 4).train(), 1e-3, "cpu")
    seen = []
    for branch in trainer.model.branches:
        branch.register_forward_hook(
            lambda *_: seen.append(sum(p.grad is not None for p in trainer.model.parameters()))
        )
    trainer.step(torch.randn(4, 3, 32, 32), torch.zeros(3, 4, dtype=torch.int64))
    assert seen == [0, 0, 0]
    assert all(p.grad is None for p in trainer.model.parameters())


@pytest.mark.parametrize(("count", "sizes"), [(12, [4, 4, 4]), (10, [2, 4, 4]), (9, [4, 5]), (3, [3])])
def test_every_image_is_in_one_batch(count: int, sizes: list[int]):
    parts = train.shuffled(np.arange(100, 100 + count), 4, np.random.default_rng(0))
    assert sorted(len(part) for part in parts) == sizes
    assert sorted(np.concatenate(parts)) == list(range(100, 100 + count))


def run(packed: Store, **changes):
    rows = packed.rows("train")
    groups = meta_classes.assign(6, 3, 2, 0)
    ensemble = model.Ensemble("resnet18", 2, 3)
    targets = groups[:, packed.labels(rows)]
    recipe = RECIPE | {"epochs": 2} | changes
    history = train.fit(ensemble, packed.images, rows, targets, packed.normalization("dataset"), **recipe)
    return ensemble.state_dict(), history


def test_same_seed_same_bytes_whatever_the_workers(tiny_store: Store):
    first, history = run(tiny_store)
    second, again = run(tiny_store, workers=3)
    other, _ = run(tiny_store, seed=1)
    assert history.equals(again)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_training_learns_and_says_so(tiny_store: Store):
    _, history = run(tiny_store, epochs=6)
    assert list(history.columns) == ["epoch", "learning_rate", "loss", "accuracy"]
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(history["learning_rate"], [1e-3] * 3 + [1e-4] * 3)
    assert history["loss"].iloc[-1] < 0.7 * history["loss"].iloc[0]
    assert history["accuracy"].iloc[-1] > 0.8


def test_a_loss_that_is_not_finite_stops_at_once(tiny_store: Store):
    with pytest.raises(ValueError, match=r"the loss is nan in epoch 1, step \d, branch \d; .*lower train\.learning"):
        run(tiny_store, learning_rate=1e30)

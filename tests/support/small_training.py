"""A training run of two branches on the tiny store, which takes a second; how it is interrupted; and small teachers."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from lrec import export
from lrec.data import meta_classes
from lrec.data.batches import Images
from lrec.data.store import Store
from lrec.model.ensemble import Ensemble
from lrec.training import loop
from lrec.training.loop import fit
from lrec.training.recipe import Recipe

RECIPE = Recipe(epochs=2, batch_size=8, learning_rate=1e-3)


def run(packed: Store, chosen: Recipe = RECIPE, **options):
    """Train from new weights; return the trained weights and the history."""
    rows = packed.rows("train")
    groups = meta_classes.assign(6, 3, 2, 0)
    ensemble = Ensemble("resnet18", 2, 3)
    targets = groups[:, packed.labels(rows)]
    images = Images(packed.images, rows, **packed.normalization("dataset"))
    history = fit(ensemble, images, targets, chosen, **options)
    return ensemble.state_dict(), history


def changed(**values) -> Recipe:
    """Return the recipe with changed values."""
    return Recipe(**(vars(RECIPE) | values))


KNOWN: dict[str, tuple] = {}


def undisturbed(packed: Store, **values) -> tuple:
    """Train without interruption, once for all tests, because their images are the same."""
    if (name := str(values)) not in KNOWN:
        KNOWN[name] = run(packed, changed(**values))
    return KNOWN[name]


def same(first: dict, second: dict) -> bool:
    """Return whether two state dicts have the same bytes."""
    return all(torch.equal(first[key], second[key]) for key in first)


@contextlib.contextmanager
def interrupted(steps: int) -> Iterator[None]:
    """Interrupt the training in the block after a number of steps, as Ctrl-C does."""
    step, calls = loop._step, []

    def limited(*arguments):
        if len(calls) == steps:
            raise KeyboardInterrupt
        calls.append(1)
        return step(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_step", limited)
        with pytest.raises(KeyboardInterrupt):
            yield


class Means(nn.Module):
    """Maps images to the means of their channels, the smallest program that can teach."""

    def forward(self, images):
        return images.mean((2, 3))


def program(network: nn.Module, folder: Path, size: int = 32) -> Path:
    """Export a program for any number of images of `size` pixels."""
    with torch.no_grad():
        export.exported(network, torch.rand(2, 3, size, size), folder)
    return folder / "model.pt2"

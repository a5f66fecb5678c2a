"""A training run of two branches on the tiny store, which takes a second."""

import torch

from lrec.data import meta_classes
from lrec.data.batches import Images
from lrec.data.store import Store
from lrec.model.ensemble import Ensemble
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

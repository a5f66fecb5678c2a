"""Validation without test data: recall among the images of held-out training classes."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lrec.compute import collective
from lrec.compute.device import autocast
from lrec.data import batches
from lrec.model.ensemble import Ensemble
from lrec.training.recipe import Recipe

_BLOCK = 1024


@dataclass(frozen=True)
class Held:
    """R images of held-out training classes, and their (R,) int64 classes."""

    images: batches.Images
    labels: np.ndarray


def hold_out(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose the classes to hold out, at random.

    Args:
        labels: (R,) int64 class of each training image.
        fraction: fraction of the classes, between 0 and 1; at least two are held out, or none for 0.
        seed: the same seed chooses the same classes.

    Returns:
        (R,) bool, whether an image's class is held out.

    Raises:
        ValueError: fewer than two classes would be left to train on, or no held-out class has two images.
    """
    if fraction == 0:
        return np.zeros(len(labels), dtype=bool)
    classes = np.unique(labels)
    count = max(2, round(fraction * len(classes)))
    if len(classes) - count < 2:
        raise ValueError(
            f"train.validation_share: found {fraction}, which leaves {len(classes) - count} of {len(classes)} classes "
            "to train on, expected at least two; lower it"
        )
    held = np.isin(labels, np.random.default_rng(seed).permutation(classes)[:count])
    if np.unique(labels[held], return_counts=True)[1].max() < 2:
        raise ValueError(
            f"train.validation_share: the {count} classes held out have one image each, so none can find another of "
            "its class; raise it, or set it to 0"
        )
    return held


def recall_at_1(embeddings: Tensor, labels: Tensor) -> float:
    """Return the fraction of images whose most similar other image has the same class.

    The policy is that of `lrec.metrics.recall`: the image itself is excluded by its index, ties count against it, and
    the only image of a class is a miss.

    Args:
        embeddings: (R, d) floats.
        labels: (R,) int64.

    >>> recall_at_1(torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]]), torch.tensor([0, 0, 1, 0]))
    0.0
    >>> recall_at_1(torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1]]), torch.tensor([0, 0, 1]))
    0.6666666666666666
    """
    values = embeddings.double()
    hits = torch.zeros((), dtype=torch.int64, device=values.device)
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK] @ values.T
        same = labels[start : start + _BLOCK, None] == labels
        best_other = block.masked_fill(same, -torch.inf).amax(1)
        same.diagonal(start).fill_(False)
        hits += (block.masked_fill(~same, -torch.inf).amax(1) > best_other).sum()
    return int(hits) / len(values)


def measure(model: Ensemble, held: Held, recipe: Recipe, device: str) -> float:
    """Embed held-out images with the current model and return their recall at 1, the same in every process.

    In branch parallel, every process embeds with its own branches; in data parallel, only rank 0 embeds, since its
    batch-norm statistics are kept.

    Args:
        model: this process's part of the ensemble; it is left in evaluation mode.
        held: the images and their classes.
        recipe: batch size, precision, parallelism and the kind of embedding to validate.
        device: device of the forward pass.
    """
    model.eval()
    kind, count = recipe.validation_kind, len(held.images)
    width = model.width(kind)
    size = width // model.ensemble_size
    embeddings = torch.zeros(count, width, device=device)
    if recipe.parallel == "ensemble" or collective.rank() == 0:
        spans = [slice(start, start + recipe.batch_size) for start in range(0, count, recipe.batch_size)]
        loaded = batches.gather(held.images.pixels, [held.images.rows[span] for span in spans], device, 0)
        with torch.no_grad():
            for span, pixels in zip(spans, loaded, strict=True):
                with autocast(device, recipe.precision):
                    part = model.embed(held.images.normalize(pixels), kind)
                embeddings[span, model.own.start * size : model.own.stop * size] = part.float()
    collective.add_up([embeddings])
    return recall_at_1(embeddings, torch.from_numpy(held.labels).to(device))

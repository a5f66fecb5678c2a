"""Counts parameters of an ensemble, and multiply-accumulates of embedding an image and of training."""

import functools
import warnings
from typing import Any

import torch

from lrec.model import saved
from lrec.model.backbones import SHARE
from lrec.model.classifiers import Classifier
from lrec.model.ensemble import LINEAR, Ensemble


@functools.cache
def count_parameters(
    backbone: str, ensemble_size: int, outputs: int, share: str = SHARE, classifier: Classifier = LINEAR
) -> int:
    """Return the number of parameters, counted on the meta device, which allocates no memory."""
    with torch.device("meta"):
        model = Ensemble(backbone, 1, outputs, share=share, classifier=classifier)
    stem, branch = (sum(p.numel() for p in part.parameters()) for part in (model.stem, model.branches))
    return stem + ensemble_size * branch


@functools.cache
def count_macs(backbone: str, ensemble_size: int, outputs: int, image_size: int, share: str = SHARE) -> int:
    """Return the multiply-accumulates of one image's forward pass, counted by thop on the meta device.

    A multiply-accumulate is two floating-point operations. thop does not count cheap operations such as relu.
    """
    with warnings.catch_warnings():
        # thop imports distutils, which warns that it is deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        from thop import profile

    with torch.device("meta"):
        model = Ensemble(backbone, 1, outputs, share=share)
        image = torch.empty(1, 3, image_size, image_size)
        shared = model.stem(image)
    # Outside the meta device, because thop's counters need real memory.
    stem, _ = profile(model.stem, inputs=(image,), verbose=False)
    branch, _ = profile(model.branches[0], inputs=(shared,), verbose=False)
    return int(stem + ensemble_size * branch)


def compute(entry: dict[str, Any]) -> tuple[int, int]:
    """Return the multiply-accumulates of embedding one image, and of the whole training, of an entry of the ledger.

    A training step is counted as three forward passes, since the backward pass has two products of the same size for
    each one of the forward pass. The stem is counted once, because it is computed once for all branches.
    A student's teacher embeds each image of a step, and both networks embed all images once before.
    """
    used, run = entry["settings"], entry.get("run") or {}
    shape = used["ensemble_size"], saved.outputs(used), used["image_size"], used["share"]
    image = count_macs(entry["backbone"], *shape)
    teacher, epochs = used.get("teacher_macs", 0), run.get("epochs", used["epochs"])
    start = image + teacher if teacher else 0
    return image, entry["counts"]["train"][0] * ((3 * image + teacher) * epochs + start)

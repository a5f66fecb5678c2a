"""Where the heads of a student start: at the best linear map from its features to the teacher's embeddings.

From a random head, the first steps would carry its noise back into the features, and destroy what they start from.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from lrec.compute.device import autocast
from lrec.compute.transfer import to_device
from lrec.data import batches
from lrec.data.batches import Images
from lrec.model.ensemble import Ensemble
from lrec.model.kinds import KINDS

_RIDGE = 0.1  # of the mean variance of a feature
_BATCH = 100


def start(model: Ensemble, images: Images, taught: np.ndarray, device: str, precision: str = "float32") -> None:
    """Set the linear classifier of each branch by ridge regression, from one pass over the images as they are.

    Args:
        model: this process's part of an ensemble, on the device.
        images: R training images.
        taught: (M, R, d) float32, what a teacher makes of them.
        device: of the model.
        precision: of the forward pass.
    """
    model.eval()
    sums = {number: torch.zeros((), dtype=torch.float64, device=device) for number in model.own}
    spans = [slice(first, first + _BATCH) for first in range(0, len(images), _BATCH)]
    loaded = batches.gather(images.pixels, [images.rows[span] for span in spans], device, 0)
    with torch.no_grad():
        for span, pixels in zip(spans, loaded, strict=True):
            targets = to_device(np.array(taught[:, span]), device)
            with autocast(device, precision):
                maps = model.stem(images.normalize(pixels))
                features = {number: KINDS["features"].output(model.branches[number], maps) for number in model.own}
            for number, found in features.items():
                x = pad(found.double(), (0, 1), value=1.0)  # the last one is for the bias
                sums[number] = sums[number] + x.T @ torch.cat([x, targets[number].double()], dim=1)
        for number, total in sums.items():
            weight, bias = _solve(total, len(images))
            classifier = model.branches[number].classifier
            classifier.weight.copy_(weight)
            classifier.bias.copy_(bias)


def _solve(total: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the weight (d, w) and the bias (d,) from sums of products (w + 1, w + 1 + d) over so many images."""
    width = len(total) - 1
    mean, taught = total[width, :width] / count, total[width, width + 1 :] / count
    inner = total[:width, :width] / count - mean[:, None] * mean
    cross = total[:width, width + 1 :] / count - mean[:, None] * taught
    inner.diagonal().add_(_RIDGE * inner.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny))
    weight = torch.linalg.solve(inner, cross).T
    return weight, taught - weight @ mean

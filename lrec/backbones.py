"""Which torchvision networks can be an ensemble, and where each is cut into stem and branch.

A new one is one entry of `BACKBONES`: its builder, the names of its parts in the order in which an image
passes through them, where it may be cut, and the linear layer that is replaced.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision.models
from torch import nn

SHARES = ("none", "maxpool", "layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class Backbone:
    """A network and its cuts.

    build: torchvision's function. parts: its submodules up to the global average pool. cuts: for each of
    `SHARES`, how many parts the stem has; the rest belongs to the branches. classifier: its last layer.
    depthwise: most convolutions are, see `memory_format`.
    """

    build: Callable[..., nn.Module]
    parts: tuple[str, ...]
    cuts: dict[str, int]
    classifier: str
    depthwise: bool = False

    def split(self, share: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names of the stem's and of a branch's parts."""
        if share not in self.cuts:
            raise ValueError(f"share: found {share!r}, expected one of {', '.join(self.cuts)}")
        return self.parts[: self.cuts[share]], self.parts[self.cuts[share] :]


def _resnet(build: Callable[..., nn.Module]) -> Backbone:
    parts = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    return Backbone(build, parts, dict(zip(SHARES, (0, 4, 5, 6, 7, 8), strict=True)), "fc")


BACKBONES = {
    "resnet18": _resnet(torchvision.models.resnet18),
    "resnet34": _resnet(torchvision.models.resnet34),
    "resnet50": _resnet(torchvision.models.resnet50),
    "resnext50_32x4d": _resnet(torchvision.models.resnext50_32x4d),
    # Cut where its resolution changes: after 1/4, 1/8 (as light as a ResNet's layer1), 1/16 twice, 1/32.
    "mobilenet_v2": Backbone(
        torchvision.models.mobilenet_v2,
        tuple(f"features.{number}" for number in range(19)),
        dict(zip(SHARES, (0, 4, 7, 11, 14, 19), strict=True)),
        "classifier.1",
        depthwise=True,
    ),
}


def memory_format(backbone: str, device: str) -> torch.memory_format:
    """Return how images and weights lie in memory where a backbone is fastest.

    A GPU likes channels last; so does a processor's convolution by channel, and its others do not.

    Source: measured in benchmarks/training.py and benchmarks/extraction.py.
    """
    last = torch.device(device).type == "cuda" or BACKBONES[backbone].depthwise
    return torch.channels_last if last else torch.contiguous_format

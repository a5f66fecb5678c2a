"""The torchvision networks that an ensemble can be made of, and where each is cut into stem and branch.

A new backbone is one entry of `BACKBONES`, under torchvision's name: the names of its parts in the order in which an
image passes through them, where it may be cut, and the linear layer that is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

SHARE = "layer1"  # the original's
SHARES = ("none", "maxpool", "layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class Backbone:
    """A network and its cuts.

    title: its name in figures. parts: its submodules up to the global average pool. cuts: for each of `SHARES`, the
    number of parts in the stem; the rest belongs to the branches. classifier: its last layer. normalized: the layer
    between pool and classifier, if any. depthwise: most convolutions are. options: arguments of torchvision's builder.
    """

    title: str
    parts: tuple[str, ...]
    cuts: dict[str, int]
    classifier: str
    normalized: str = ""
    depthwise: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def split(self, share: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names of the stem's and of a branch's parts."""
        if share not in self.cuts:
            raise ValueError(f"share: found {share!r}, expected one of {', '.join(self.cuts)}")
        return self.parts[: self.cuts[share]], self.parts[self.cuts[share] :]


def _cuts(*counts: int) -> dict[str, int]:
    return dict(zip(SHARES, counts, strict=True))


def _features(count: int) -> tuple[str, ...]:
    return tuple(f"features.{number}" for number in range(count))


def _resnet(title: str) -> Backbone:
    parts = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    return Backbone(title, parts, _cuts(0, 4, 5, 6, 7, 8), "fc")


# Stochastic depth is off: its random numbers come from a generator that threads share, so training would not be
# reproducible.
BACKBONES = {
    "resnet18": _resnet("ResNet-18"),
    "resnet34": _resnet("ResNet-34"),
    "resnet50": _resnet("ResNet-50"),
    "resnext50_32x4d": _resnet("ResNeXt-50 (32x4d)"),
    # Cut where the resolution changes: after 1/4, 1/8 (as light as a ResNet's layer1), 1/16 twice, 1/32.
    "mobilenet_v2": Backbone("MobileNetV2", _features(19), _cuts(0, 4, 7, 11, 14, 19), "classifier.1", depthwise=True),
    # Cut between its four stages, at 1/4 to 1/32, like a ResNet between its layers; every stage but the first begins
    # with its downsampling.
    "convnext_tiny": Backbone(
        "ConvNeXt-T",
        _features(8),
        _cuts(0, 1, 2, 4, 6, 8),
        "classifier.2",
        normalized="classifier.0",
        depthwise=True,
        options={"stochastic_depth_prob": 0.0},
    ),
    # Cut after 1/2, 1/4, 1/8, 1/16 and 1/32.
    "efficientnet_v2_s": Backbone(
        "EfficientNetV2-S",
        _features(8),
        _cuts(0, 2, 3, 4, 6, 8),
        "classifier.1",
        options={"stochastic_depth_prob": 0.0},
    ),
}


def network(name: str) -> nn.Module:
    """Return a whole network of `BACKBONES` as torchvision builds it, with random weights."""
    # Here, because it takes as long as importing torch and most commands build no network.
    from torchvision.models import get_model

    return get_model(name, weights=None, **BACKBONES[name].options)

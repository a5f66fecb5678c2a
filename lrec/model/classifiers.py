"""Classifiers map a branch's pooled features to its outputs: a linear layer, or cosines to one vector per output."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize


@dataclass(frozen=True)
class Classifier:
    """The kind of classifier of the branches.

    Attributes:
        kind: "linear", with bias, as in the original; or "cosine".
        scale: factor of the cosines; not used by a linear classifier.
    """

    kind: str = "linear"
    scale: float = 20.0

    def build(self, width: int, outputs: int) -> nn.Module:
        """Return a new classifier of (N, width) features, initialised with torch's global generator."""
        return Cosine(width, outputs, self.scale) if self.kind == "cosine" else nn.Linear(width, outputs)


class Cosine(nn.Module):
    """Scaled cosines between features and one weight vector per output, without bias.

    Source: Wang et al., CosFace, CVPR 2018, without a margin; Zhai and Wu, Classification is a Strong Baseline for
    Deep Metric Learning, BMVC 2019 (NormSoftmax).
    """

    def __init__(self, width: int, outputs: int, scale: float) -> None:
        super().__init__()
        self.in_features, self.out_features, self.scale = width, outputs, scale
        self.weight = nn.Parameter(torch.empty(outputs, width))
        # Directions are uniform on the sphere. The lengths, about a quarter, determine how fast they turn: Adam moves
        # each weight by about the learning rate, whatever the length of the vector.
        nn.init.normal_(self.weight, std=width**-0.5 / 4)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, width) features to (N, outputs) scaled cosines."""
        return self.scale * linear(normalize(features), normalize(self.weight))

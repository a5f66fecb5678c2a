"""Kinds of embedding: which output of a branch is its part of the embedding. A new kind is one entry of `KINDS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Kind:
    """A kind of embedding.

    output: maps a branch and the (N, C, H, W) output of the stem to (N, w). width: maps a branch to w.
    """

    output: Callable[[nn.Sequential, Tensor], Tensor]
    width: Callable[[nn.Sequential], int]


KINDS = {
    # As in the original implementation.
    "logits": Kind(lambda branch, maps: branch(maps), lambda branch: branch.classifier.out_features),
    # The pooled features, the classifier's input: w is 512 for resnet18 and resnet34, 2048 for resnet50.
    "features": Kind(lambda branch, maps: branch[:-1](maps), lambda branch: branch.classifier.in_features),
}

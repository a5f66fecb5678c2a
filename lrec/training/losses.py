"""The losses of a branch; a new one is one entry of `LOSSES`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean cross entropy of (B, D) logits against (B,) int64 meta classes, a scalar."""
    from torch.nn import functional  # here: the schema of params.yaml reads the names, and needs no torch

    return functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)


LOSSES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"cross_entropy": cross_entropy}

"""The losses of a branch; a new one is one entry of `LOSSES`.

Cross entropy takes one logit per meta class. The other losses learn an embedding; they come from
pytorch-metric-learning, which is imported only for them, except for distillation, whose targets are the embeddings
of a teacher instead of classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

# torch is imported where a loss is created, since the schema of params.yaml needs only the names.
if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Loss:
    """A loss.

    Attributes:
        make: maps D, the number of outputs of a branch and the label smoothing to a module, which maps
            (B, outputs) and (B,) int64 meta classes to a scalar, or (B, outputs) and a teacher's embeddings.
        is_metric: whether the outputs are an embedding rather than one logit per meta class.
        learns: whether it has parameters of its own, such as proxies.
        taught: whether the targets are a teacher's embeddings; the outputs then have their dimensions.
    """

    make: Callable[[int, int, float], nn.Module]
    is_metric: bool = True
    learns: bool = False
    taught: bool = False


def _cross_entropy(classes: int, outputs: int, label_smoothing: float) -> nn.Module:
    from torch import nn

    return nn.CrossEntropyLoss(label_smoothing=label_smoothing)


def _proxy_anchor(classes: int, outputs: int, label_smoothing: float) -> nn.Module:
    """Kim et al., Proxy Anchor Loss for Deep Metric Learning, CVPR 2020; with their margin and scale."""
    return _library().ProxyAnchorLoss(classes, outputs, margin=0.1, alpha=32)


def _norm_softmax(classes: int, outputs: int, label_smoothing: float) -> nn.Module:
    """Zhai and Wu, Classification is a Strong Baseline for Deep Metric Learning, BMVC 2019; with their temperature."""
    return _library().NormalizedSoftmaxLoss(classes, outputs, temperature=0.05)


def _multi_similarity(classes: int, outputs: int, label_smoothing: float) -> nn.Module:
    """Wang et al., Multi-Similarity Loss with General Pair Weighting, CVPR 2019; without its miner."""
    return _library().MultiSimilarityLoss(alpha=2, beta=50, base=0.5)


def _distillation(classes: int, outputs: int, label_smoothing: float) -> nn.Module:
    from lrec.training.distillation import Distillation

    return Distillation()


def _library():  # noqa: ANN202 (a module)
    try:
        from pytorch_metric_learning import losses
    except ImportError as error:
        raise ValueError(f"train.loss: {error}; pip install pytorch-metric-learning") from error
    return losses


LOSSES = {
    "cross_entropy": Loss(_cross_entropy, is_metric=False),
    "proxy_anchor": Loss(_proxy_anchor, learns=True),
    "norm_softmax": Loss(_norm_softmax, learns=True),
    "multi_similarity": Loss(_multi_similarity),
    "distillation": Loss(_distillation, taught=True),
}


def right_ones(outputs: Tensor, targets: Tensor, is_metric: bool) -> Tensor:
    """Count the images of a batch that are classified correctly.

    Args:
        outputs: (B, D) logits, or (B, n) embeddings.
        targets: (B,) int64 meta classes.
        is_metric: for embeddings, an image counts if the most similar other image of the batch has its class.
    """
    if not is_metric:
        return (outputs.argmax(1) == targets).sum()
    directions = outputs.float() / outputs.float().norm(dim=1, keepdim=True).clamp(min=1e-12)
    return (targets[(directions @ directions.T).fill_diagonal_(-2).argmax(1)] == targets).sum()

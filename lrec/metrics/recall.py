"""Retrieval metrics of a set of embeddings: recall at k, mean average precision at R and related metrics.

Policy, for all metrics:

- The similarity is the dot product of the vectors as given. Embeddings have unit norm, so it is the cosine.
- Where the query set is the gallery, the query itself is excluded by its index, never by rank or similarity
  (leave-one-out).
- Ties count against the query: an item of another class as similar as a positive is ranked before it.
  Similarities closer than 8 times the float64 bound of `similarity.rounding` are a tie; that is about
  4 d 2^-52 |query| max |gallery item|, or 5e-13 for 576 dimensions and unit norm.
- A query without positives in the gallery counts as a miss in every average, and the number of these
  queries is reported.

All metrics are exact: they do not depend on the order of rows or labels, block sizes, device or
number of threads. `ranking` explains how.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lrec.compute.device import working_memory
from lrec.compute.transfer import to_device
from lrec.metrics import counting, ranking
from lrec.metrics.similarity import Embeddings, Rows, full_precision

MEMORY_BYTES = 384 * 2**20  # on a CPU
_RESAMPLES, _SEED = 2000, 0  # for the interval


@dataclass(frozen=True)
class Retrieval:
    """How well a gallery answers Q queries; fractions are between 0 and 1.

    Attributes:
        recall: fraction of queries with a positive among the k most similar items, for every requested k.
        lone_queries: number of queries without a positive in the gallery.
        mean_reciprocal_rank: mean of one over the rank of the best positive.
        macro_recall_at_1: mean over the queries' classes of the class's recall at 1.
        recall_at_1_interval: class-bootstrap 95 % interval of recall at 1, see `interval`.
        best_rank: (Q,) int64, in the order of the queries: rank of the best positive, from 1; 0 without positives.
        map_at_r: mean average precision at R, None if not requested. R is the number of positives of a
            query; its average precision is the mean over its positives of the precision at the positive's rank,
            or 0 for ranks beyond R.
        r_precision: mean fraction of positives among the R most similar items, None if not requested.

    Source of the last two: Musgrave et al., A Metric Learning Reality Check, ECCV 2020, section 3.2.
    pytorch-metric-learning excludes queries without positives from these means; here they count as 0.
    """

    recall: dict[int, float]
    lone_queries: int
    mean_reciprocal_rank: float
    macro_recall_at_1: float
    recall_at_1_interval: tuple[float, float]
    best_rank: np.ndarray
    map_at_r: float | None
    r_precision: float | None


def recall_at_k(
    query: Embeddings,
    query_labels: Iterable[Hashable],
    ks: Sequence[int],
    gallery: Embeddings | None = None,
    gallery_labels: Iterable[Hashable] | None = None,
    *,
    device: str | torch.device = "cpu",
    memory_bytes: int | None = None,
) -> dict[int, float]:
    """Return the fraction of queries with an item of their class among the k most similar, for every k.

    Arguments, errors and policy are those of `evaluate`. Ties count against the query, so an embedding
    that maps everything to one point gets 0, not 1:

    >>> recall_at_k(np.ones((4, 2)), ["cat", "cat", "dog", "dog"], ks=[1, 2, 3])
    {1: 0.0, 2: 0.0, 3: 1.0}
    >>> recall_at_k(np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1.0]]), ["cat", "cat", "dog", "cat"], ks=[1, 2])
    {1: 0.25, 2: 0.75}
    """
    best = _rank(query, query_labels, ks, gallery, gallery_labels, False, device, memory_bytes)[0]
    return _recall(best, ks)


def evaluate(
    query: Embeddings,
    query_labels: Iterable[Hashable],
    ks: Sequence[int],
    gallery: Embeddings | None = None,
    gallery_labels: Iterable[Hashable] | None = None,
    *,
    precision: bool = True,
    device: str | torch.device = "cpu",
    memory_bytes: int | None = None,
) -> Retrieval:
    """Compute all retrieval metrics; the module's docstring states the policy.

    Args:
        query: (Q, d) float16, float32 or float64; a numpy array, a memory map or a tensor, in any layout.
        query_labels: Q labels of any hashable type, in any order.
        ks: the cutoffs, each at least 1; they may exceed the size of the gallery.
        gallery: (G, d), likewise; None means that every query searches the other queries.
        gallery_labels: G labels; None if and only if `gallery` is.
        precision: also compute MAP@R and R-precision.
        device: where similarities are computed.
        memory_bytes: limit of the working memory, not counting a few hundred bytes per row; None means `MEMORY_BYTES`
            on a CPU and half of the free memory on a GPU.

    Raises:
        ValueError: shapes, lengths or dtypes do not match, a set is empty, a k is below 1, or an embedding
            is not finite; the message names the row.
    """
    best, classes, ranks = _rank(query, query_labels, ks, gallery, gallery_labels, precision, device, memory_bytes)
    ranked, hits = best > 0, best == 1
    _, number = np.unique(classes, return_inverse=True)
    return Retrieval(
        recall=_recall(best, ks),
        lone_queries=int((~ranked).sum()),
        mean_reciprocal_rank=math.fsum(1 / best[ranked]) / len(best),
        macro_recall_at_1=_mean(np.bincount(number, hits) / np.bincount(number)),
        recall_at_1_interval=interval(hits, classes),
        best_rank=best,
        map_at_r=_mean(ranks.average_precision) if precision else None,
        r_precision=_mean(ranks.r_precision) if precision else None,
    )


def interval(hits: np.ndarray, classes: np.ndarray) -> tuple[float, float]:
    """Return the class-bootstrap 95 % interval of the fraction of hits.

    Images of one class resemble each other, so classes rather than queries are resampled: 2,000 times, as many
    classes as there are, with replacement. The interval is the 2.5th to the 97.5th percentile of the fraction of
    hits among their queries (the percentile bootstrap over clusters). The seed is fixed.

    Args:
        hits: (Q,) bool.
        classes: (Q,) int64 class numbers.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 8 and 13.
    """
    _, number = np.unique(classes, return_inverse=True)
    size, hit = np.bincount(number), np.bincount(number, hits).astype(np.int64)
    order = np.lexsort((hit, size))  # the draws must not depend on the order of rows
    size, hit = size[order], hit[order]
    generator = np.random.default_rng(_SEED)
    draws = (generator.integers(len(size), size=len(size)) for _ in range(_RESAMPLES))
    fractions = [hit[draw].sum() / size[draw].sum() for draw in draws]
    low, high = np.quantile(fractions, [0.025, 0.975])
    return float(low), float(high)


def _rank(
    query: Embeddings,
    query_labels: Iterable[Hashable],
    ks: Sequence[int],
    gallery: Embeddings | None,
    gallery_labels: Iterable[Hashable] | None,
    precision: bool,
    device: str | torch.device,
    memory_bytes: int | None,
) -> tuple[np.ndarray, np.ndarray, ranking.Ranks]:
    """Check the arguments; return best ranks and class numbers in the queries' order, and all ranks in class order."""
    if not len(ks) or any(k < 1 for k in ks):
        raise ValueError(f"ks: found {list(ks)}, expected cutoffs of at least 1")
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels: found one of them, expected both or none")
    numbers: dict[Hashable, int] = {}
    device = torch.device(device)
    if device.type == "mps":
        raise ValueError("device: found mps, which has no float64; expected cpu or cuda")
    memory_bytes = working_memory(device, MEMORY_BYTES) if memory_bytes is None else memory_bytes
    keep = memory_bytes // (2 if gallery is None else 4)
    with full_precision(device):
        queries, places = _by_class(query, query_labels, "query", numbers, device, keep)
        items = queries if gallery is None else _by_class(gallery, gallery_labels, "gallery", numbers, device, keep)[0]
        if queries.rows.width != items.rows.width:
            raise ValueError(
                f"gallery: found {items.rows.width} dimensions, expected {queries.rows.width}, the query's"
            )
        kept = queries.rows.kept_bytes + (0 if gallery is None else items.rows.kept_bytes)
        ranks = ranking.rank(queries, items, gallery is None, precision, memory_bytes - kept)
    best, classes = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
    best[places], classes[places] = ranks.best, queries.classes.cpu().numpy()
    return best, classes, ranks


def _by_class(
    data: Embeddings, labels: Any, name: str, numbers: dict[Hashable, int], device: torch.device, keep_bytes: int
) -> tuple[counting.Labelled, np.ndarray]:
    """Sort a set of embeddings by class; return it with the original place of every row.

    `numbers` maps labels to class numbers; new labels are added to it.
    """
    values = labels.tolist() if isinstance(labels, (np.ndarray, torch.Tensor)) else list(labels)
    if len(data) == 0:
        raise ValueError(f"{name}: found no rows, expected at least one")
    if len(values) != len(data):
        raise ValueError(f"{name}_labels: found {len(values)} labels, expected {len(data)}, one per row of {name}")
    try:
        classes = np.array([numbers.setdefault(value, len(numbers)) for value in values])
    except TypeError as error:
        raise ValueError(
            f"{name}_labels: found a label that is not hashable ({error}), expected one per row"
        ) from error
    order = np.argsort(classes, kind="stable")
    rows = Rows(data, order, name, device, keep_bytes)
    return counting.Labelled(rows, to_device(classes[order], device)), order


def _recall(best: np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    return {int(k): int(((best > 0) & (best <= k)).sum()) / len(best) for k in ks}


def _mean(values: np.ndarray) -> float:
    """Average with an exactly rounded sum, so that the order of the queries does not matter."""
    return math.fsum(values) / len(values)

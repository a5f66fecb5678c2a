"""Retrieval metrics of a set of embeddings: recall at k, mean average precision at R and their like.

Policy, for all figures:

- The similarity is the dot product of the vectors as given. Embeddings have unit norm, so it is the cosine.
- In self-retrieval the query itself is left out by its index, never by rank or similarity.
- Ties count against the query: an item of another class as similar as a positive is ranked before it.
  Similarities closer than 8 times the float64 bound of `similarity.rounding` are a tie; that is about
  4 d 2^-52 |query| max |gallery item|, 5e-13 for 576 dimensions and unit norm.
- A query without a positive in the gallery (lone) counts as a miss in every average, and lone queries
  are reported.

All figures are exact: they depend neither on the order of rows or labels nor on block sizes, device or
number of threads or processes. `ranking` says how.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import distributed

from lrec.metrics import counting, ranking
from lrec.metrics.similarity import Embeddings, Rows, full_precision

MEMORY_BYTES = 384 * 2**20
_RESAMPLES = 2000


@dataclass(frozen=True)
class Retrieval:
    """How well a gallery answers Q queries; shares are between 0 and 1.

    Attributes:
        recall: share of queries with a positive among the k most similar items, for every k asked for.
        lone_queries: queries without a positive in the gallery.
        mean_reciprocal_rank: mean of one over the rank of the best positive.
        macro_recall_at_1: mean over the queries' classes of the class's recall at 1.
        recall_at_1_interval: 95% interval of recall at 1 under resampling of classes, see `interval`.
        best_rank: (Q,) int64, in the order of the queries: rank of the best positive from 1, 0 for lone.
        map_at_r: mean average precision at R, None if not asked for. R is the number of positives of a
            query; its average precision is the mean over them of the precision at the positive's rank,
            counting 0 for ranks beyond R.
        r_precision: mean share of positives among the R most similar items, None if not asked for.

    Source of the last two: Musgrave et al., A Metric Learning Reality Check, ECCV 2020, section 3.2;
    pytorch-metric-learning leaves lone queries out of these means, here they count as 0.
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
    memory_bytes: int = MEMORY_BYTES,
) -> dict[int, float]:
    """Return the share of queries with an item of their class among the k most similar, for every k.

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
    seed: int = 0,
    device: str | torch.device = "cpu",
    memory_bytes: int = MEMORY_BYTES,
    group: distributed.ProcessGroup | None = None,
) -> Retrieval:
    """Compute all retrieval metrics; the module's docstring states the policy.

    Args:
        query: (Q, d) float16, float32 or float64; a numpy array, a memory map or a tensor, in any layout.
        query_labels: Q labels of any hashable type, in any order.
        ks: the cutoffs, each at least 1; they may exceed the size of the gallery.
        gallery: (G, d), likewise; None means that every query searches the other queries.
        gallery_labels: G labels; None exactly if `gallery` is.
        precision: also compute MAP@R and R-precision.
        seed: of the resampling behind the interval.
        device: where similarities are computed.
        memory_bytes: bound of the working memory, beside a few hundred bytes per row.
        group: processes that all call this with the same arguments (but the device) and share the work;
            each of them returns all figures. None for this process alone.

    Raises:
        ValueError: shapes, lengths or dtypes that do not fit, an empty set, a k below 1, or an embedding
        that is not finite; the message names the row.
    """
    best, classes, ranks = _rank(
        query, query_labels, ks, gallery, gallery_labels, precision, device, memory_bytes, group
    )
    found, hits = best > 0, best == 1
    _, code = np.unique(classes, return_inverse=True)
    return Retrieval(
        recall=_recall(best, ks),
        lone_queries=int((~found).sum()),
        mean_reciprocal_rank=math.fsum(1 / best[found]) / len(best),
        macro_recall_at_1=_mean(np.bincount(code, hits) / np.bincount(code)),
        recall_at_1_interval=interval(hits, classes, seed),
        best_rank=best,
        map_at_r=_mean(ranks.average_precision) if precision else None,
        r_precision=_mean(ranks.r_precision) if precision else None,
    )


def interval(hits: np.ndarray, classes: np.ndarray, seed: int) -> tuple[float, float]:
    """Return a 95% interval of the share of hits by resampling classes.

    Images of one class resemble each other, so classes and not queries are drawn with replacement: 2,000
    draws of as many classes as there are, the share of hits among their queries each time, and the 2.5
    and 97.5 percentiles of these shares (the percentile bootstrap over clusters).

    Args:
        hits: (Q,) bool.
        classes: (Q,) int64 class codes.
        seed: the same seed gives the same interval.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 8 and 13.
    """
    _, code = np.unique(classes, return_inverse=True)
    size, found = np.bincount(code), np.bincount(code, hits).astype(np.int64)
    order = np.lexsort((found, size))  # the draws must not depend on the order of rows
    size, found = size[order], found[order]
    generator = np.random.default_rng(seed)
    draws = (generator.integers(len(size), size=len(size)) for _ in range(_RESAMPLES))
    shares = [found[draw].sum() / size[draw].sum() for draw in draws]
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)


def _rank(
    query: Embeddings,
    query_labels: Iterable[Hashable],
    ks: Sequence[int],
    gallery: Embeddings | None,
    gallery_labels: Iterable[Hashable] | None,
    precision: bool,
    device: str | torch.device,
    memory_bytes: int,
    group: distributed.ProcessGroup | None = None,
) -> tuple[np.ndarray, np.ndarray, ranking.Ranks]:
    """Check the arguments; return best ranks and class codes in the queries' order, and all ranks in class order."""
    if not len(ks) or any(k < 1 for k in ks):
        raise ValueError(f"ks: found {list(ks)}, expected cutoffs of at least 1")
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels: found one of them, expected both or none")
    codes: dict[Hashable, int] = {}
    device = torch.device(device)
    if device.type == "mps":
        raise ValueError("device: found mps, which has no float64; expected cpu or cuda")
    share = memory_bytes // (2 if gallery is None else 4)
    with full_precision(device):
        queries, places = _side(query, query_labels, "query", codes, device, share)
        others = queries if gallery is None else _side(gallery, gallery_labels, "gallery", codes, device, share)[0]
        if queries.rows.width != others.rows.width:
            raise ValueError(
                f"gallery: found {others.rows.width} dimensions, expected {queries.rows.width}, the query's"
            )
        kept = queries.rows.kept_bytes + (0 if gallery is None else others.rows.kept_bytes)
        ranks = ranking.rank(queries, others, gallery is None, precision, memory_bytes - kept, group)
    best, classes = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
    best[places], classes[places] = ranks.best, queries.codes.cpu().numpy()
    return best, classes, ranks


def _side(
    data: Embeddings, labels: Any, name: str, codes: dict[Hashable, int], device: torch.device, keep_bytes: int
) -> tuple[counting.Side, np.ndarray]:
    """Sort a set of embeddings by class; return it with the original place of every row."""
    values = labels.tolist() if isinstance(labels, (np.ndarray, torch.Tensor)) else list(labels)
    if len(data) == 0:
        raise ValueError(f"{name}: found no rows, expected at least one")
    if len(values) != len(data):
        raise ValueError(f"{name}_labels: found {len(values)} labels, expected {len(data)}, one per row of {name}")
    try:
        coded = np.array([codes.setdefault(value, len(codes)) for value in values])
    except TypeError as error:
        raise ValueError(
            f"{name}_labels: found a label that is not hashable ({error}), expected one per row"
        ) from error
    order = np.argsort(coded, kind="stable")
    rows = Rows(data, order, name, device, keep_bytes)
    return counting.Side(rows, torch.from_numpy(coded[order]).to(device)), order


def _recall(best: np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    return {int(k): int(((best > 0) & (best <= k)).sum()) / len(best) for k in ks}


def _mean(values: np.ndarray) -> float:
    """Average with an exactly rounded sum, so that the order of the queries does not matter."""
    return math.fsum(values) / len(values)

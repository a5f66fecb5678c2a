"""Exact search: the k most similar rows of a gallery for every query, block by block.

A similarity is a dot product in float64. Equally similar rows come in the order of their numbers, so the
answer depends on the numbers alone. Recall is not computed from these lists: `lrec.metrics.recall` counts.
"""

import numbers
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from lrec.compute.transfer import to_device
from lrec.metrics.similarity import full_precision, ordered_products, pair_values, products, rounding

MEMORY_BYTES = 256 * 2**20
_QUERIES = 256  # searched together
NO_ROW = -1


def top(
    queries: np.ndarray,
    gallery: Sequence[np.ndarray],
    k: int,
    exclude: np.ndarray | None = None,
    *,
    memory_bytes: int = MEMORY_BYTES,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k most similar gallery rows of each query.

    Args:
        queries: (Q, d) floats.
        gallery: one or more (n, d) arrays of float16 or float32, memory maps for example; their G rows are
            numbered consecutively across arrays.
        k: results per query.
        exclude: (Q,) rows that a query must not find, its own for example; `NO_ROW` for none.
        memory_bytes: bound of the working memory.
        device: where products are computed.

    Returns:
        Scores (Q, k) float32, descending, and rows (Q, k) int64.

    Raises:
        ValueError: k is out of range, the dimensions differ, or a query or a row is not finite.
    """
    size, width = sum(len(part) for part in gallery), gallery[0].shape[1]
    queries = np.require(queries, np.float32, ["W"])  # torch warns of a memory map that is not writable
    if queries.ndim != 2 or queries.shape[1] != width:
        raise ValueError(f"queries: found embeddings of shape {queries.shape}, expected (Q, {width}) as in the gallery")
    if not np.isfinite(queries).all():
        raise ValueError("queries: found a value that is not finite, expected numbers")
    hidden = np.full(len(queries), NO_ROW) if exclude is None else np.asarray(exclude)
    most = size - int((hidden != NO_ROW).any())
    if isinstance(k, bool) or not isinstance(k, numbers.Integral):
        raise ValueError(f"number of results: found {k!r:.80}, expected a whole number")
    if not 1 <= k <= most:
        raise ValueError(f"number of results: found {k}, expected 1 to {most:,}, the images that can be found")
    scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    with full_precision(torch.device(device)):
        for start in range(0, len(queries), _QUERIES):
            some = slice(start, start + _QUERIES)
            best = _search(queries[some], gallery, k, hidden[some], memory_bytes, device)
            scores[some], rows[some] = (part.cpu().numpy() for part in best)
    if len(bad := rows[~np.isfinite(scores)]):
        raise ValueError(f"gallery: found a value that is not finite in row {bad.min()}, expected numbers")
    return scores, rows


def _search(
    queries: np.ndarray, gallery: Sequence[np.ndarray], k: int, exclude: np.ndarray, memory_bytes: int, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Carry the best k from block to block; earlier blocks hold lower rows, so stable sorts keep the order."""
    own = to_device(queries, device)
    hidden = to_device(exclude, device)
    # A block takes its rows twice (as stored and in float32), and a similarity up to 40 bytes if all are alike.
    size = max(k, 1024, memory_bytes // (8 * own.shape[1] + 40 * len(own)))
    scores = torch.empty(len(own), 0, dtype=torch.float64, device=device)
    rows = torch.empty(len(own), 0, dtype=torch.int64, device=device)
    for first, block in _blocks(gallery, size):
        values, places = _best(own, to_device(block, device), k, hidden - first)
        scores, order = torch.cat([scores, values], 1).sort(dim=1, descending=True, stable=True)
        rows = torch.cat([rows, places + first], 1).gather(1, order)
        scores, rows = scores[:, :k], rows[:, :k]
    return scores.float(), rows


def _best(
    queries: torch.Tensor, items: torch.Tensor, k: int, hidden: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k items most similar to each query, equal ones in the order of their places.

    The last bits of a matrix product depend on the place of a row in it. So it only selects: all items that its
    rounding error might keep out of the first k are computed again, each pair by itself.

    Args:
        queries: (Q, d) float32.
        items: (n, d) float32.
        k: how many; all if there are fewer.
        hidden: (Q,) places of items that a query must not find, if they are among these.

    Returns:
        Similarities (Q, k) float64, -inf for a hidden item, and places (Q, k) int64.
    """
    similar, k = products(queries, items), min(k, len(items))
    inside = ((hidden >= 0) & (hidden < len(items))).nonzero()[:, 0]
    similar[inside, hidden[inside]] = -torch.inf
    lengths = queries.double().norm(dim=1) * items.double().norm(dim=1).max()
    least = similar.topk(k, dim=1).values[:, -1] - 2 * rounding(queries.shape[1], torch.float32, lengths)
    reached = least.float().nan_to_num(nan=-torch.inf)
    reached = reached.nextafter(torch.full_like(reached, -torch.inf))
    chosen = (similar >= reached[:, None]) | similar.isnan()
    query, place = chosen.nonzero(as_tuple=True)
    size = max(1, pair_values(queries.device) // queries.shape[1])
    exact = torch.empty(len(query), dtype=torch.float64, device=query.device)
    for out, some, other in zip(exact.split(size), query.split(size), place.split(size), strict=True):
        out.copy_(ordered_products(queries[some].double(), items[other].double()))
    exact[similar[query, place] == -torch.inf] = -torch.inf
    order = exact.sort(descending=True, stable=True).indices
    order = order[query[order].sort(stable=True).indices]
    count = chosen.sum(1)
    best = order[(count.cumsum(0) - count)[:, None] + torch.arange(k, device=order.device)]
    return exact[best], place[best]


def _blocks(gallery: Sequence[np.ndarray], size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of the first row and up to `size` rows as float32."""
    first = 0
    for part in gallery:
        for start in range(0, len(part), size):
            yield first + start, np.array(part[start : start + size], dtype=np.float32)
        first += len(part)

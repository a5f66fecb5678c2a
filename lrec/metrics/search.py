"""Exact search: the k most similar rows of a gallery for every query, block by block.

The similarity of embeddings is a dot product in float64; that of codes (`lrec.embedding.codes`) is an integer. Equally
similar rows are returned in row order, so the result depends only on the values. Recall is not computed from these
results: `lrec.metrics.recall` counts.
"""

import numbers
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from lrec.compute.transfer import to_device
from lrec.metrics.similarity import (
    differences,
    full_precision,
    integer_products,
    ordered_products,
    pair_values,
    products,
    rounding,
)

MEMORY_BYTES = 256 * 2**20
_QUERIES = 256  # queries searched together
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
        queries: (Q, d) floats; for a gallery of codes, codes.
        gallery: one or more (n, d) arrays, memory maps for example: float16 or float32 embeddings, int8 codes, or
            binary codes in uint8, eight dimensions per byte. Their G rows are numbered consecutively across arrays.
        k: results per query.
        exclude: (Q,) rows to exclude, such as each query's own row; `NO_ROW` for none.
        memory_bytes: limit of the working memory.
        device: where products are computed; differing bits of binary codes are counted on the CPU.

    Returns:
        Scores (Q, k) float32, descending, and rows (Q, k) int64. A score is a dot product; for binary codes it is
        minus the number of differing bits.

    Raises:
        ValueError: nothing can be found, k is out of range, the dimensions differ, a query or a row is not finite, or
            the gallery holds codes and the queries are not codes.
    """
    size, width, stored = sum(len(part) for part in gallery), gallery[0].shape[1], gallery[0].dtype
    queries = np.asarray(queries)
    if stored.kind != "f" and queries.dtype != stored:
        raise ValueError(f"queries: found {queries.dtype}, expected codes of {stored} as in the gallery")
    # torch warns about arrays that are not writable, such as memory maps.
    queries = np.require(queries, np.float32 if stored.kind == "f" else stored, ["W"])
    if queries.ndim != 2 or queries.shape[1] != width:
        raise ValueError(f"queries: found embeddings of shape {queries.shape}, expected (Q, {width}) as in the gallery")
    if not np.isfinite(queries).all():
        raise ValueError("queries: found a value that is not finite, expected numbers")
    hidden = np.full(len(queries), NO_ROW) if exclude is None else np.asarray(exclude)
    most = size - int((hidden != NO_ROW).any())
    if isinstance(k, bool) or not isinstance(k, numbers.Integral):
        raise ValueError(f"number of results: found {k!r:.80}, expected a whole number")
    if most < 1:
        what = "the only row is excluded" if size else "the database is empty"
        raise ValueError(f"gallery: {what}, so nothing can be found; add images")
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
    """Keep the best k of all blocks so far; earlier blocks hold lower rows, so stable sorts keep the order."""
    if queries.dtype == np.uint8:
        device, best = "cpu", _closest
    else:
        best = _best if queries.dtype == np.float32 else _best_of_integers
    own = to_device(queries, device)
    hidden = to_device(exclude, device)
    # A block holds its rows twice (as stored and in float32); if all are equal, a similarity takes up to 40 bytes.
    size = max(k, 1024, memory_bytes // (8 * own.shape[1] + 40 * len(own)))
    scores = torch.empty(len(own), 0, dtype=torch.float64, device=device)
    rows = torch.empty(len(own), 0, dtype=torch.int64, device=device)
    for first, block in _blocks(gallery, size):
        values, places = best(own, to_device(block, device), k, hidden - first)
        scores, order = torch.cat([scores, values], 1).sort(dim=1, descending=True, stable=True)
        rows = torch.cat([rows, places + first], 1).gather(1, order)
        scores, rows = scores[:, :k], rows[:, :k]
    return scores.float(), rows


def _best(
    queries: torch.Tensor, items: torch.Tensor, k: int, hidden: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k items most similar to each query; equally similar items are in the order of their places.

    The last bits of a matrix product depend on the place of a row in the matrix. So the product only selects
    candidates: every item that may be among the first k, given its rounding error, is computed again pair by pair.

    Args:
        queries: (Q, d) float32.
        items: (n, d) float32.
        k: number of items; all if there are fewer.
        hidden: (Q,) place of the item to exclude; ignored if outside the block.

    Returns:
        Similarities (Q, k) float64, -inf for a hidden item, and places (Q, k) int64.
    """
    similar, k = _hide(products(queries, items), hidden), min(k, len(items))
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
    return _first(exact, query, place, chosen.sum(1), k)


def _best_of_integers(
    queries: torch.Tensor, items: torch.Tensor, k: int, hidden: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do the same as `_best` for int8 codes: integer products do not depend on the order of summation."""
    similar = integer_products(queries.float(), items.float())
    return _first_of_all(_hide(similar, hidden), k)


def _closest(
    queries: torch.Tensor, items: torch.Tensor, k: int, hidden: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do the same as `_best` for binary codes: the similarity is minus the number of differing bits."""
    similar = torch.from_numpy(differences(queries.numpy(), items.numpy())).float().neg_()
    return _first_of_all(_hide(similar, hidden), k)


def _hide(similar: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Write -inf at the item that each query excludes."""
    inside = ((hidden >= 0) & (hidden < similar.shape[1])).nonzero()[:, 0]
    similar[inside, hidden[inside]] = -torch.inf
    return similar


def _first_of_all(similar: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k largest of exact similarities (Q, n); equal ones are in the order of their places."""
    k = min(k, similar.shape[1])
    chosen = similar >= similar.topk(k, dim=1).values[:, -1:]
    query, place = chosen.nonzero(as_tuple=True)
    return _first(similar[query, place].double(), query, place, chosen.sum(1), k)


def _first(
    exact: torch.Tensor, query: torch.Tensor, place: torch.Tensor, count: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k largest similarities of each query, and their places; equal ones are in the order of places.

    Args:
        exact: (n,) float64 similarities, sorted by query and place.
        query: (n,) query of each similarity.
        place: (n,) place of each similarity.
        count: (Q,) number of similarities of each query, at least k.
        k: number of similarities to return.
    """
    order = exact.sort(descending=True, stable=True).indices
    order = order[query[order].sort(stable=True).indices]
    best = order[(count.cumsum(0) - count)[:, None] + torch.arange(k, device=order.device)]
    return exact[best], place[best]


def _blocks(gallery: Sequence[np.ndarray], size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of the first row and up to `size` rows: embeddings as float32, codes unchanged.

    A block may have rows of many arrays: a database has a small one for each addition, and between removed rows.
    """
    dtype = np.float32 if gallery[0].dtype.kind == "f" else gallery[0].dtype
    edges = np.cumsum([0, *map(len, gallery)])
    for first in range(0, int(edges[-1]), size):
        begin, end = np.searchsorted(edges, first, "right") - 1, np.searchsorted(edges[:-1], first + size)
        pieces = [
            part[max(first - start, 0) : first + size - start]
            for start, part in zip(edges[begin:end].tolist(), gallery[begin:end], strict=True)
        ]
        yield first, np.concatenate(pieces, dtype=dtype)

"""Counts, block by block, the items of other classes that reach the thresholds of a query's positives.

A tile is computed in float32, either completely or only the rows and columns that `sieve` does not rule out. A row
is examined if its largest value may count. Similarities within the proved rounding error of a threshold are in doubt
and are computed again in float64. Queries that are still in doubt are marked as undecided.
"""

import math
from dataclasses import dataclass

import torch

from lrec.compute.device import is_gpu
from lrec.metrics import sieve
from lrec.metrics.blocks import Segment, mask_same_class, segments, slices_within
from lrec.metrics.similarity import Rows, exact_block, exact_pairs, products, rounding
from lrec.metrics.thresholds import Thresholds

_DENSE = 1 / 64  # fraction of doubtful similarities above which a whole float64 block is cheaper
_ITEM_BYTES = 1024  # memory per item while it is located among the thresholds
_COMPARED = 2**20  # values compared at a time, few enough for an exact count in float32


@dataclass(frozen=True)
class Labelled:
    """The queries or the gallery: rows sorted by class, and their (N,) int64 class numbers."""

    rows: Rows
    classes: torch.Tensor


@dataclass(frozen=True)
class BestThresholds:
    """The thresholds of the best positives of Q queries, and error bounds; all (Q,) float64.

    Attributes:
        values: the similarity an item must reach to count; infinite for a query without positives.
        tolerance: the best positive's similarity minus the threshold: the tolerance of a tie.
        float64_margin: a float64 similarity closer than this to the threshold is in doubt.
        float32_margin: a float32 similarity closer than this to the threshold is in doubt.
        lengths: the query's length times that of the longest gallery item.
    """

    values: torch.Tensor
    tolerance: torch.Tensor
    float64_margin: torch.Tensor
    float32_margin: torch.Tensor
    lengths: torch.Tensor

    @classmethod
    def unset(cls, queries: Rows, gallery: Rows) -> "BestThresholds":
        """Compute the error bounds; the thresholds are infinite until they are set."""
        lengths = queries.norms * gallery.norms.max()
        error = rounding(queries.width, torch.float64, lengths)
        # A comparison involves four float64 values, its definition two of them.
        margin = 4 * error
        wide = margin + rounding(queries.width, torch.float32, lengths)
        return cls(torch.full_like(lengths, math.inf), 8 * error, margin, wide, lengths)


class Counter:
    """Counts items block by block; several counters can share the blocks of a matrix.

    Args:
        queries: Q rows.
        gallery: G rows.
        best: thresholds of the queries' best positives.
        thresholds: thresholds of all positives, which hold the counts; or None.
        memory_bytes: limit of the memory for a block.

    Attributes:
        count: (Q,) int64, items that count against the best positive.
        undecided: (Q,) int64, number of float64 similarities too close to a threshold.
    """

    def __init__(
        self,
        queries: Labelled,
        gallery: Labelled,
        best: BestThresholds,
        thresholds: Thresholds | None,
        memory_bytes: int,
    ) -> None:
        self._queries, self._gallery, self._memory = queries, gallery, memory_bytes
        self._best = best.values
        self._float64_margin, self._float32_margin = best.float64_margin, best.float32_margin
        self._sieve = sieve.Sieve(queries.rows.width, best.lengths) if sieve.supported(best.values.device) else None
        self.thresholds = thresholds
        self.count = torch.zeros_like(queries.classes)
        self.undecided = torch.zeros_like(queries.classes)

    def add(self, rows: slice, columns: slice, mirrored: bool) -> None:
        """Count the items of one block for its rows and, in the mirrored matrix, for its columns."""
        axes = (0, 1) if mirrored and rows != columns else (0,)
        rounded = self._sieve is not None
        right = segments(self._gallery.rows, self._gallery.classes, columns, rounded)
        for left in segments(self._queries.rows, self._queries.classes, rows, rounded):
            for other in right:
                self._add_tile(left, other, axes)

    def merge(self, others: "list[Counter]") -> None:
        """Add the counts of other counters of the same matrix."""
        for other in others:
            self.count += other.count
            self.undecided += other.undecided
        if self.thresholds and others:
            self.thresholds.merge([other.thresholds for other in others if other.thresholds])

    def _add_tile(self, rows: Segment, columns: Segment, axes: tuple[int, ...]) -> None:
        """Count the items of a tile for its rows (axis 0), its columns (axis 1) or both."""
        edges = (rows, columns)
        left = self._sieve.sift(rows, columns, axes, self._lowest) if self._sieve else None
        if left is None:
            tile = _similarities(rows, columns)
            for axis in axes:
                self._count(tile, edges[axis].numbers, edges[1 - axis].numbers, axis)
            return
        for axis, (lines, others) in zip(axes, left, strict=True):
            if len(lines):
                queries, items = edges[axis].select(lines), edges[1 - axis].select(others)
                self._count(_similarities(queries, items), queries.numbers, items.numbers, 0)

    def _lowest(self, query: torch.Tensor) -> torch.Tensor:
        """Return the lowest float32 similarity that may count for each query; infinity where none can."""
        least = self._best[query]
        if self.thresholds:
            least = torch.minimum(least, self.thresholds.lowest(query))
        return least - self._float32_margin[query]

    def _count(self, tile: torch.Tensor, query: torch.Tensor, items: torch.Tensor, axis: int) -> None:
        """Count the items of a tile that reach the thresholds of the queries along one of its axes."""
        part = tile
        if not is_gpu(tile.device):  # on a GPU, counting all lines is faster than selecting some
            some = (tile.amax(1 - axis) >= self._lowest(query).float()).nonzero()[:, 0]
            if not len(some):
                return
            query, part = query[some], tile.index_select(axis, some)
        sure = at_least(part, self._best[query] + self._float32_margin[query], axis)
        excess = at_least(part, self._best[query] - self._float32_margin[query], axis) - sure
        self.count[query] += sure
        lines = part if axis == 0 else part.T
        doubtful = excess.nonzero()[:, 0]
        if len(doubtful):
            many = int(excess.sum()) > _DENSE * len(doubtful) * lines.shape[1]
            resolve = self._resolve_block if many else self._resolve_pairs
            resolve(lines[doubtful], query[doubtful], items)
        if self.thresholds:
            self._count_at_all(self.thresholds, lines, query, items)

    def _doubtful(self, lines: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        best, margin = self._best[query, None], self._float32_margin[query, None]
        return (lines >= (best - margin).float()) & (lines < (best + margin).float())

    def _resolve_pairs(self, lines: torch.Tensor, query: torch.Tensor, items: torch.Tensor) -> None:
        """Decide a few doubtful items in these lines of a tile, with one float64 product each."""
        line, item = self._doubtful(lines, query).nonzero(as_tuple=True)
        query = query[line]
        excess = self._exact_pairs(query, items[item]) - self._best[query]
        self.count.index_add_(0, query, (excess >= self._float64_margin[query]).long())
        self.undecided.index_add_(0, query, (excess.abs() < self._float64_margin[query]).long())

    def _resolve_block(self, lines: torch.Tensor, query: torch.Tensor, items: torch.Tensor) -> None:
        """Decide many doubtful items in these lines of a tile, with float64 blocks."""
        for some in torch.arange(len(query), device=query.device).split(max(1, len(query) // 8)):
            who = query[some]
            doubtful, margin = self._doubtful(lines[some], who), self._float64_margin[who, None]
            exact = exact_block(self._queries.rows, self._gallery.rows, who, items, self._memory)
            excess = exact - self._best[who, None]
            self.count[who] += (doubtful & (excess >= margin)).sum(1)
            self.undecided[who] += (doubtful & (excess.abs() < margin)).sum(1)

    def _count_at_all(
        self, thresholds: Thresholds, lines: torch.Tensor, query: torch.Tensor, items: torch.Tensor
    ) -> None:
        """Count the items in these lines at each positive that may still rank R or better."""
        lowest = (thresholds.lowest(query) - self._float32_margin[query]).float()
        for some in slices_within(at_least(lines, lowest, 0), max(1, self._memory // _ITEM_BYTES)):
            line, item = (lines[some] >= lowest[some, None]).nonzero(as_tuple=True)
            who, value = query[some][line], lines[some][line, item].double()
            place = thresholds.locate(who, value)
            near = (thresholds.distance(who, value, place) <= self._float32_margin[who]).nonzero()[:, 0]
            if not len(near):
                thresholds.add(who, place)
                continue
            doubtful = who[near]
            value = self._exact_pairs(doubtful, items[item[near]])
            place[near] = thresholds.locate(doubtful, value)
            undecided = thresholds.distance(doubtful, value, place[near]) <= self._float64_margin[doubtful]
            self.undecided.index_add_(0, doubtful, undecided.long())
            thresholds.add(who, place)
        thresholds.prune(query)

    def _exact_pairs(self, query: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        return exact_pairs(self._queries.rows, self._gallery.rows, query, item, self._memory)


def at_least(tile: torch.Tensor, least: torch.Tensor, axis: int) -> torch.Tensor:
    """Count, for every line along an axis, the values at or above the line's own lower bound.

    Args:
        tile: (n, m) floats.
        least: lower bounds, (n,) for rows (axis 0) or (m,) for columns (axis 1); compared in the tile's dtype.
        axis: 0 or 1.

    Returns:
        (n,) or (m,) int64. On a CPU, the comparisons are written as floats into a buffer that stays in the
        cache, and summed: several times as fast as with booleans.
    """
    height, width = tile.shape
    least = least.to(tile.dtype).unsqueeze(1 - axis)
    if is_gpu(tile.device):
        return (tile >= least).sum(1 - axis)
    total = torch.zeros(least.numel(), dtype=torch.int64, device=tile.device)
    size = max(1, _COMPARED // width)
    buffer = torch.empty(min(size, height), width, device=tile.device)
    for start in range(0, height, size):
        rows = slice(start, min(start + size, height))
        reached = buffer[: rows.stop - rows.start]
        if axis == 0:
            torch.ge(tile[rows], least[rows], out=reached)
            total[rows] = reached.sum(1).long()
        else:
            torch.ge(tile[rows], least, out=reached)
            total += reached.sum(0).long()
    return total


def _similarities(queries: Segment, items: Segment) -> torch.Tensor:
    """Return float32 similarities, -inf for items of the query's own class."""
    return mask_same_class(products(queries.values, items.values), queries, items)

"""Counting, block by block, the items that reach what a query's positives set as limits.

A block is computed in float32, or only those lines of it that `sieve.products` do not rule out, and a line
is looked at if its largest value may count. Similarities within the proved rounding error of a query's
limit are in doubt; they are computed again in float64. What is in doubt even then is noted.
"""

import math
from dataclasses import dataclass

import torch
from torch import distributed

from lrec.metrics import sieve
from lrec.metrics.blocks import Part, at_least, batches, parts, without_own
from lrec.metrics.similarity import Rows, exact_block, exact_pairs, products, rounding
from lrec.metrics.thresholds import Ladder

_DENSE = 1 / 64  # share of doubtful similarities above which a whole float64 block is cheaper
_ITEM_BYTES = 1024  # memory an item takes while it is counted at a ladder


@dataclass(frozen=True)
class Side:
    """The queries or the gallery: rows sorted by class, and their (N,) int64 class codes."""

    rows: Rows
    codes: torch.Tensor


@dataclass(frozen=True)
class Limits:
    """What an item's similarity must reach to count, for each of Q queries; all (Q,) float64.

    Attributes:
        limit: that similarity; infinite for a query without a positive.
        tolerance: how far it lies below the best positive's.
        slack: how close to it a float64 similarity is in doubt.
        blur: how close to it a float32 similarity is in doubt.
        lengths: the query's length times that of the longest gallery item.
    """

    limit: torch.Tensor
    tolerance: torch.Tensor
    slack: torch.Tensor
    blur: torch.Tensor
    lengths: torch.Tensor

    @classmethod
    def unset(cls, queries: Rows, gallery: Rows) -> "Limits":
        """Make the limits of queries, infinite as yet."""
        lengths = queries.norms * gallery.norms.max()
        error = rounding(queries.width, torch.float64, lengths)
        # Four float64 values take part in a comparison, two of them in its definition.
        slack = 4 * error
        blur = slack + rounding(queries.width, torch.float32, lengths)
        return cls(torch.full_like(lengths, math.inf), 8 * error, slack, blur, lengths)


class Counter:
    """Counts the blocks that it is given; several may share the blocks of a matrix, each on its own.

    Args:
        queries: Q rows.
        gallery: G rows.
        limits: of the queries.
        ladder: of the queries' positives, or None; counted in it.
        memory_bytes: what the work on a block may take.

    Attributes:
        count: (Q,) int64, items that count against the best positive.
        unclear: (Q,) bool, whether a similarity was in doubt to the last.
    """

    def __init__(self, queries: Side, gallery: Side, limits: Limits, ladder: Ladder | None, memory_bytes: int) -> None:
        self._queries, self._gallery, self._memory = queries, gallery, memory_bytes
        self._limit, self._slack, self._blur = limits.limit, limits.slack, limits.blur
        self._sieve = sieve.Sieve(queries.rows.width, limits.lengths) if sieve.supported(limits.limit.device) else None
        self.ladder = ladder
        self.count = torch.zeros_like(queries.codes)
        self.unclear = torch.zeros_like(queries.codes, dtype=torch.bool)

    def add(self, rows: slice, columns: slice, mirrored: bool) -> None:
        """Count the items of one block for its rows and, in the mirrored matrix, for its columns."""
        axes = (0, 1) if mirrored and rows != columns else (0,)
        narrow = self._sieve is not None
        others = parts(self._gallery.rows, self._gallery.codes, columns, narrow)
        for mine in parts(self._queries.rows, self._queries.codes, rows, narrow):
            for theirs in others:
                self._add_piece(mine, theirs, axes)

    def merge(self, others: "list[Counter]") -> None:
        """Take over what other counters of the same matrix have counted."""
        for other in others:
            self.count += other.count
            self.unclear |= other.unclear
        if self.ladder and others:
            self.ladder.merge([other.ladder for other in others if other.ladder])

    def join(self, group: distributed.ProcessGroup) -> None:
        """Bring together what the processes of a group counted."""
        unclear = self.unclear.long()
        for counted in (self.count, unclear):
            distributed.all_reduce(counted, group=group)
        self.unclear = unclear > 0
        if self.ladder:
            self.ladder.join(group)

    def _add_piece(self, mine: Part, theirs: Part, axes: tuple[int, ...]) -> None:
        """Count the items of a piece of a block for its rows, axis 0, and maybe its columns, axis 1."""
        sides = (mine, theirs)
        left = self._sieve.sift(mine, theirs, axes, self._lowest) if self._sieve else None
        if left is None:
            block = _similarities(mine, theirs)
            for axis in axes:
                self._count(block, sides[axis].numbers, sides[1 - axis].numbers, axis)
            return
        for axis, (lines, others) in zip(axes, left, strict=True):
            if len(lines):
                queries, items = sides[axis].some(lines), sides[1 - axis].some(others)
                self._count(_similarities(queries, items), queries.numbers, items.numbers, 0)

    def _lowest(self, query: torch.Tensor) -> torch.Tensor:
        """Return the least float32 similarity that may count for each query; infinity where none can."""
        least = self._limit[query]
        return (torch.minimum(least, self.ladder.lowest(query)) if self.ladder else least) - self._blur[query]

    def _count(self, block: torch.Tensor, query: torch.Tensor, items: torch.Tensor, axis: int) -> None:
        """Count the items of a piece that reach the limits of the queries along one of its axes."""
        some = (block.amax(1 - axis) >= self._lowest(query).float()).nonzero()[:, 0]
        if not len(some):
            return
        query, part = query[some], block.index_select(axis, some)
        sure = at_least(part, self._limit[query] + self._blur[query], axis)
        excess = at_least(part, self._limit[query] - self._blur[query], axis) - sure
        self.count[query] += sure
        lines = part if axis == 0 else part.T
        doubtful, number = excess.nonzero()[:, 0], int(excess.sum())
        if number:
            many = number > _DENSE * len(doubtful) * lines.shape[1]
            resolve = self._resolve_all if many else self._resolve_single
            resolve(lines[doubtful], query[doubtful], items)
        if self.ladder:
            self._climb(self.ladder, lines, query, items)

    def _doubtful(self, lines: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        limit, blur = self._limit[query, None], self._blur[query, None]
        return (lines >= (limit - blur).float()) & (lines < (limit + blur).float())

    def _resolve_single(self, lines: torch.Tensor, query: torch.Tensor, items: torch.Tensor) -> None:
        """Decide the few doubtful items of these queries' lines of a block, one float64 product each."""
        line, item = self._doubtful(lines, query).nonzero(as_tuple=True)
        query = query[line]
        excess = self._exact_pairs(query, items[item]) - self._limit[query]
        self.count.index_add_(0, query, (excess >= self._slack[query]).long())
        self.unclear[query[excess.abs() < self._slack[query]]] = True

    def _resolve_all(self, lines: torch.Tensor, query: torch.Tensor, items: torch.Tensor) -> None:
        """Decide the many doubtful items of these queries' lines of a block with float64 blocks."""
        for some in torch.arange(len(query), device=query.device).split(max(1, len(query) // 8)):
            who = query[some]
            doubtful, slack = self._doubtful(lines[some], who), self._slack[who, None]
            exact = exact_block(self._queries.rows, self._gallery.rows, who, items, self._memory)
            excess = exact - self._limit[who, None]
            self.count[who] += (doubtful & (excess >= slack)).sum(1)
            self.unclear[who] |= (doubtful & (excess.abs() < slack)).any(1)

    def _climb(self, ladder: Ladder, lines: torch.Tensor, query: torch.Tensor, items: torch.Tensor) -> None:
        """Count the items of these queries' lines at each positive that may still rank R or better."""
        lowest = (ladder.lowest(query) - self._blur[query]).float()
        reaching = at_least(lines, lowest, 0)
        for part in batches(reaching, max(1, self._memory // _ITEM_BYTES)):
            line, item = (lines[part] >= lowest[part, None]).nonzero(as_tuple=True)
            who, value = query[part][line], lines[part][line, item].double()
            place = ladder.land(who, value)
            near = (ladder.gap(who, value, place) <= self._blur[who]).nonzero()[:, 0]
            doubtful = who[near]
            value = self._exact_pairs(doubtful, items[item[near]])
            place[near] = ladder.land(doubtful, value)
            unclear = ladder.gap(doubtful, value, place[near]) <= self._slack[doubtful]
            self.unclear[doubtful[unclear]] = True
            ladder.add(who, place)
        ladder.prune(query)

    def _exact_pairs(self, query: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        return exact_pairs(self._queries.rows, self._gallery.rows, query, item, self._memory)


def _similarities(mine: Part, theirs: Part) -> torch.Tensor:
    """Return float32 similarities, -inf for items of the query's own class."""
    return without_own(products(mine.values, theirs.values), mine, theirs)

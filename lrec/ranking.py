"""Ranks of positives by counting: exact, without a sort and without the matrix of all similarities.

The rank of a query's best positive is one more than the number of items of other classes that are at
least as similar. Rows are sorted by class, so the positives of a query lie side by side; the others are
counted block by block, and in self-retrieval a block above the diagonal serves its rows and its columns.

Exactness. A block is computed in float32, or only those lines of it that `rough` products do not rule out,
and a line is looked at if its largest value may count. Similarities within the proved rounding error of a
query's limit are in doubt; they are computed again in float64, whose own error is far below the tie
tolerance. A query with a similarity in doubt even then (it would have to differ from the positive's by
the tie tolerance itself, to 13 digits) is ranked once more by `ordered_products`, the definition.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import islice

import numpy as np
import torch
from torch import distributed

from lrec import rough
from lrec.blocks import at_least, batches, block_size, rectangle, triangle
from lrec.pieces import Part, parts, without_own
from lrec.precision import Ladder
from lrec.similarity import Rows, ordered_products, products, rounding

_TILE = 128  # queries whose positives are computed together
_DENSE = 1 / 64  # share of doubtful similarities above which a whole float64 block is cheaper
_PAIR_VALUES = 2**19  # values multiplied at a time in single products: what a processor's cache holds
_POSITIVE_BYTES = 256  # memory a positive takes in a ladder
_ITEM_BYTES = 1024  # memory an item takes while it is counted at a ladder


@dataclass(frozen=True)
class Side:
    """The queries or the gallery: rows sorted by class, and their (N,) int64 class codes."""

    rows: Rows
    codes: torch.Tensor


@dataclass(frozen=True)
class Ranks:
    """What is known of Q queries, in the order of their rows.

    Attributes:
        best: (Q,) int64 rank of the best positive from 1, 0 without a positive.
        average_precision: (Q,) float64 average precision at R, 0 without a positive or if not asked for.
        r_precision: (Q,) float64 precision at R, likewise.
    """

    best: np.ndarray
    average_precision: np.ndarray
    r_precision: np.ndarray


def rank(
    queries: Side,
    gallery: Side,
    itself: bool,
    precision: bool,
    memory_bytes: int,
    group: distributed.ProcessGroup | None = None,
) -> Ranks:
    """Rank the best positive of every query, and with `precision` all positives ranked R or better.

    Args:
        queries: Q rows.
        gallery: G rows; the queries again in self-retrieval.
        itself: self-retrieval; query i is not searched for item i.
        precision: compute average precision and R-precision.
        memory_bytes: what blocks may take. Very large classes make several passes over the gallery if
            the similarities of all positives do not fit.
        group: processes that all rank the same rows and share the blocks; each gets all ranks.
    """
    passes = []
    for rows in _passes(queries, gallery, precision, memory_bytes):
        some = Side(queries.rows.part(rows), queries.codes[rows])
        passes.append(_Pass(some, gallery, rows.start if itself else None, precision, memory_bytes).run(group))
    return Ranks(*(np.concatenate([getattr(x, field.name) for x in passes]) for field in fields(Ranks)))


def _passes(queries: Side, gallery: Side, precision: bool, memory_bytes: int) -> Iterator[slice]:
    """Yield runs of queries whose positives fit in memory together: nearly always all queries."""
    if not precision:
        return iter([slice(0, queries.rows.size)])
    first = torch.searchsorted(gallery.codes, queries.codes)
    last = torch.searchsorted(gallery.codes, queries.codes, right=True)
    return batches(last - first + 1, max(1, memory_bytes // _POSITIVE_BYTES))


class _Pass:
    """One pass of some queries over the gallery."""

    def __init__(self, queries: Side, gallery: Side, offset: int | None, precision: bool, memory_bytes: int) -> None:
        # In self-retrieval query i is gallery item i + offset; otherwise the offset is None.
        self.queries, self.gallery, self.offset, self.memory = queries, gallery, offset, memory_bytes
        self.first = torch.searchsorted(gallery.codes, queries.codes)
        self.last = torch.searchsorted(gallery.codes, queries.codes, right=True)
        self.positives = self.last - self.first - int(offset is not None)
        lengths = queries.rows.norms * gallery.rows.norms.max()
        error = rounding(queries.rows.width, torch.float64, lengths)
        # Four float64 values take part in a comparison, two of them in its definition.
        self.tolerance, self.slack = 8 * error, 4 * error
        self.blur = self.slack + rounding(queries.rows.width, torch.float32, lengths)
        self.sieve = rough.Sieve(queries.rows.width, lengths) if rough.supported(lengths.device) else None
        self.limit = torch.full_like(lengths, math.inf)
        self.ladder = Ladder.empty(self.positives, self.slack) if precision else None
        self.count = torch.zeros_like(queries.codes)
        self.unclear = torch.zeros_like(queries.codes, dtype=torch.bool)

    def run(self, group: distributed.ProcessGroup | None = None) -> Ranks:
        """Rank all queries of the pass, together with the other processes of a group."""
        self._set_limits()
        mirrored = self.offset == 0 and self.queries.rows.size == self.gallery.rows.size
        first, step = (group.rank(), group.size()) if group else (0, 1)
        for rows, columns in islice(self._blocks(mirrored), first, None, step):
            self._add(rows, columns, mirrored)
        if group:
            self._join(group)
        best = torch.where(self.positives > 0, self.count + 1, 0).cpu().numpy()
        zeros = np.zeros(len(best))
        ranks = Ranks(best, *(self.ladder.scores() if self.ladder else (zeros, zeros)))
        for query in self.unclear.nonzero()[:, 0].tolist():
            self._rank_by_definition(query, ranks)
        return ranks

    def _join(self, group: distributed.ProcessGroup) -> None:
        """Bring together what the processes of a group counted."""
        unclear = self.unclear.long()
        for counted in (self.count, unclear):
            distributed.all_reduce(counted, group=group)
        self.unclear = unclear > 0
        if self.ladder:
            self.ladder.join(group)

    def _add(self, rows: slice, columns: slice, mirrored: bool) -> None:
        """Count the items of one block."""
        axes = (0, 1) if mirrored and rows != columns else (0,)
        narrow = self.sieve is not None
        others = parts(self.gallery.rows, self.gallery.codes, columns, narrow)
        for mine in parts(self.queries.rows, self.queries.codes, rows, narrow):
            for theirs in others:
                self._add_piece(mine, theirs, axes)

    def _add_piece(self, mine: Part, theirs: Part, axes: tuple[int, ...]) -> None:
        """Count the items of a piece of a block for its rows, axis 0, and maybe its columns, axis 1."""
        sides = (mine, theirs)
        left = self.sieve.sift(mine, theirs, axes, self._lowest) if self.sieve else None
        if left is None:
            block = self._similarities(mine, theirs)
            for axis in axes:
                self._count(block, sides[axis].numbers, sides[1 - axis].numbers, axis)
            return
        for axis, (lines, others) in zip(axes, left, strict=True):
            if len(lines):
                queries, items = sides[axis].some(lines), sides[1 - axis].some(others)
                self._count(self._similarities(queries, items), queries.numbers, items.numbers, 0)

    def _lowest(self, query: torch.Tensor) -> torch.Tensor:
        """Return the least float32 similarity that may count for each query; infinity where none can."""
        least = self.limit[query]
        return (torch.minimum(least, self.ladder.lowest(query)) if self.ladder else least) - self.blur[query]

    def _set_limits(self) -> None:
        """Find the similarity an item must have to count against a query's positives."""
        start = 0
        while start < self.queries.rows.size:
            rows = self._tile(start)
            start = rows.stop
            columns = slice(int(self.first[rows].min()), int(self.last[rows].max()))
            if columns.start >= columns.stop:
                continue
            tile = self._exact_block(rows, torch.arange(columns.start, columns.stop, device=self.limit.device))
            same = self.queries.codes[rows, None] == self.gallery.codes[columns]
            others = tile.masked_fill(same, -math.inf)
            tile.masked_fill_(~same, -math.inf)
            if self.offset is not None:
                place = torch.arange(rows.start, rows.stop, device=tile.device)
                tile[place - rows.start, place + self.offset - columns.start] = -math.inf
            limits = torch.where(self.positives[rows] > 0, tile.amax(1) - self.tolerance[rows], math.inf)
            self.limit[rows] = limits
            if self.ladder:
                ordered = tile.sort(1, descending=True).values - self.tolerance[rows, None]
                self.ladder.fill(rows, ordered, others.sort(1, descending=True).values)

    def _tile(self, start: int) -> slice:
        """Take as many queries from `start` as their positives' similarities fit in memory for."""
        stop = min(start + _TILE, self.queries.rows.size)
        width = int(self.last[start:stop].max() - self.first[start:stop].min())
        fitting = max(1, self.memory // (64 * max(1, width)))
        return slice(start, min(stop, start + fitting))

    def _blocks(self, mirrored: bool) -> Iterator[tuple[slice, slice]]:
        # Half of the memory is for what sieving adds: rounded rows, copies of the rows that are left.
        size = block_size(self.queries.rows.width, self.memory // 2 if self.sieve else self.memory)
        if mirrored:
            return triangle(0, self.queries.rows.size, size)
        return rectangle(slice(0, self.queries.rows.size), slice(0, self.gallery.rows.size), size)

    def _similarities(self, mine: Part, theirs: Part) -> torch.Tensor:
        """Return float32 similarities, -inf for items of the query's own class."""
        return without_own(products(mine.values, theirs.values), mine, theirs)

    def _count(self, block: torch.Tensor, query: torch.Tensor, items: torch.Tensor, axis: int) -> None:
        """Count the items of a piece that reach the limits of the queries along one of its axes."""
        some = (block.amax(1 - axis) >= self._lowest(query).float()).nonzero()[:, 0]
        if not len(some):
            return
        query, part = query[some], block.index_select(axis, some)
        sure = at_least(part, self.limit[query] + self.blur[query], axis)
        excess = at_least(part, self.limit[query] - self.blur[query], axis) - sure
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
        limit, blur = self.limit[query, None], self.blur[query, None]
        return (lines >= (limit - blur).float()) & (lines < (limit + blur).float())

    def _resolve_single(self, lines: torch.Tensor, query: torch.Tensor, items: torch.Tensor) -> None:
        """Decide the few doubtful items of these queries' lines of a block, one float64 product each."""
        line, item = self._doubtful(lines, query).nonzero(as_tuple=True)
        query = query[line]
        excess = self._exact_pairs(query, items[item]) - self.limit[query]
        self.count.index_add_(0, query, (excess >= self.slack[query]).long())
        self.unclear[query[excess.abs() < self.slack[query]]] = True

    def _resolve_all(self, lines: torch.Tensor, query: torch.Tensor, items: torch.Tensor) -> None:
        """Decide the many doubtful items of these queries' lines of a block with float64 blocks."""
        for some in torch.arange(len(query), device=query.device).split(max(1, len(query) // 8)):
            who = query[some]
            doubtful, slack = self._doubtful(lines[some], who), self.slack[who, None]
            excess = self._exact_block(who, items) - self.limit[who, None]
            self.count[who] += (doubtful & (excess >= slack)).sum(1)
            self.unclear[who] |= (doubtful & (excess.abs() < slack)).any(1)

    def _climb(self, ladder: Ladder, lines: torch.Tensor, query: torch.Tensor, items: torch.Tensor) -> None:
        """Count the items of these queries' lines at each positive that may still rank R or better."""
        lowest = (ladder.lowest(query) - self.blur[query]).float()
        reaching = at_least(lines, lowest, 0)
        for part in batches(reaching, max(1, self.memory // _ITEM_BYTES)):
            line, item = (lines[part] >= lowest[part, None]).nonzero(as_tuple=True)
            who, value = query[part][line], lines[part][line, item].double()
            place = ladder.land(who, value)
            near = (ladder.gap(who, value, place) <= self.blur[who]).nonzero()[:, 0]
            doubtful = who[near]
            value = self._exact_pairs(doubtful, items[item[near]])
            place[near] = ladder.land(doubtful, value)
            unclear = ladder.gap(doubtful, value, place[near]) <= self.slack[doubtful]
            self.unclear[doubtful[unclear]] = True
            ladder.add(who, place)
        ladder.prune(query)

    def _exact_pairs(self, query: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """Return the float64 similarities of (n,) queries to (n,) items."""
        size = max(1, min(_PAIR_VALUES, self.memory // 64) // self.queries.rows.width)
        values = torch.empty(len(query), dtype=torch.float64, device=query.device)
        for out, some, other in zip(values.split(size), query.split(size), item.split(size), strict=True):
            a, b = self.queries.rows.take(some, torch.float64), self.gallery.rows.take(other, torch.float64)
            out.copy_(ordered_products(a, b))
        return values

    def _exact_block(self, query: slice | torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Return the float64 similarities of (n,) queries to (m,) items as (n, m), reading the items in pieces."""
        rows = self.queries.rows.take(query, torch.float64)
        pieces = items.split(max(1, self.memory // (64 * rows.shape[1])))
        return torch.cat([products(rows, self.gallery.rows.take(piece, torch.float64)) for piece in pieces], dim=1)

    def _rank_by_definition(self, query: int, ranks: Ranks) -> None:
        """Rank one query by the definition of a similarity, without any shortcut."""
        items = torch.arange(self.gallery.rows.size, device=self.limit.device)
        value = self._exact_pairs(torch.full_like(items, query), items)
        same = self.gallery.codes == self.queries.codes[query]
        others = value[~same].sort().values
        if self.offset is not None:
            same[query + self.offset] = False
        positives = value[same].sort(descending=True).values
        count = len(others) - torch.searchsorted(others, positives - self.tolerance[query])
        step = torch.arange(1, len(positives) + 1, device=count.device)
        precision = (step / (step + count).double())[step + count <= len(positives)].cpu().numpy()
        ranks.best[query] = int(count[0]) + 1
        if self.ladder:
            summed = np.append(0.0, precision).cumsum()[-1]  # in the ladder's order, to the last bit
            ranks.average_precision[query] = summed / len(positives)
            ranks.r_precision[query] = len(precision) / len(positives)

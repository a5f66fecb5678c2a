"""Ranks of positives by counting: exact, without a sort and without the matrix of all similarities.

The rank of a query's best positive is one more than the number of items of other classes that are at
least as similar. Rows are sorted by class, so the positives of a query lie side by side; the others are
counted block by block (`counting`), and in self-retrieval a block above the diagonal serves its rows and
its columns. On a processor every thread counts blocks of its own; processes may share them as well.

Exactness. What `counting` leaves in doubt even in float64, whose own error is far below the tie tolerance (a
similarity would have to differ from the positive's by the tie tolerance itself, to 13 digits), is a query
that is ranked once more by `ordered_products`, the definition.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import distributed

from lrec.compute import threads
from lrec.metrics import sieve
from lrec.metrics.blocks import batches, block_size, rectangle, triangle
from lrec.metrics.counting import Counter, Limits, Side
from lrec.metrics.similarity import exact_block, exact_pairs, full_precision
from lrec.metrics.thresholds import Ladder

_TILE = 128  # queries whose positives are computed together
_POSITIVE_BYTES = 256  # memory a positive takes in a ladder
_SIDE = 1024  # of the blocks that a thread must have room for
_TURNS = 8  # blocks along a side per thread, so that all end at about the same time


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
    memory_bytes = _least(memory_bytes, queries.codes.device, group)
    passes = []
    for rows in _passes(queries, gallery, precision, memory_bytes):
        some = Side(queries.rows.part(rows), queries.codes[rows])
        one = Pass(some, gallery, rows.start if itself else None, precision, memory_bytes)
        one.set_limits()
        first, step = (group.rank(), group.size()) if group else (0, 1)
        one.count(one.blocks(_least(one.side(), queries.codes.device, group))[first::step])
        passes.append(one.ranks(group))
    return Ranks(*(np.concatenate([getattr(x, field.name) for x in passes]) for field in fields(Ranks)))


def _least(number: int, device: torch.device, group: distributed.ProcessGroup | None) -> int:
    """Return the least of the processes' numbers, so that all cut the same blocks, whatever machines they run on."""
    if not group:
        return number
    shared = torch.tensor([number], device=device)
    distributed.all_reduce(shared, distributed.ReduceOp.MIN, group)
    return int(shared)


def _passes(queries: Side, gallery: Side, precision: bool, memory_bytes: int) -> Iterator[slice]:
    """Yield runs of queries whose positives fit in memory together: nearly always all queries."""
    if not precision:
        return iter([slice(0, queries.rows.size)])
    first = torch.searchsorted(gallery.codes, queries.codes)
    last = torch.searchsorted(gallery.codes, queries.codes, right=True)
    return batches(last - first + 1, max(1, memory_bytes // _POSITIVE_BYTES))


class Pass:
    """One pass of some queries over the gallery: limits first, then blocks, then the ranks."""

    def __init__(self, queries: Side, gallery: Side, offset: int | None, precision: bool, memory_bytes: int) -> None:
        # In self-retrieval query i is gallery item i + offset; otherwise the offset is None.
        self.queries, self.gallery, self.offset = queries, gallery, offset
        self.mirrored = offset == 0 and queries.rows.size == gallery.rows.size
        self.first = torch.searchsorted(gallery.codes, queries.codes)
        self.last = torch.searchsorted(gallery.codes, queries.codes, right=True)
        self.positives = self.last - self.first - int(offset is not None)
        self.limits = Limits.unset(queries.rows, gallery.rows)
        self.ladder = Ladder.empty(self.positives, self.limits.slack) if precision else None
        self.workers = self._number_of_workers(memory_bytes)
        self.memory = memory_bytes // self.workers
        self.counter = self._counter(self.ladder)

    def _number_of_workers(self, memory_bytes: int) -> int:
        """Return how many threads can count at a time in this memory, each with blocks that are not too small."""
        if self.queries.codes.device.type != "cpu":
            return 1
        return max(1, min(torch.get_num_threads(), memory_bytes // (12 * _SIDE * (_SIDE + self.queries.rows.width))))

    def _counter(self, ladder: Ladder | None) -> Counter:
        return Counter(self.queries, self.gallery, self.limits, ladder, self.memory)

    def set_limits(self) -> None:
        """Find the similarity an item must have to count against a query's positives."""
        threads.share(self._set_limits, self._tiles(), self.workers)

    def _set_limits(self, tiles: Iterator[slice]) -> None:
        with full_precision(self.limits.limit.device):
            for rows in tiles:
                self._set_limits_of(rows)

    def _set_limits_of(self, rows: slice) -> None:
        columns = slice(int(self.first[rows].min()), int(self.last[rows].max()))
        if columns.start >= columns.stop:
            return
        items = torch.arange(columns.start, columns.stop, device=self.first.device)
        tile = exact_block(self.queries.rows, self.gallery.rows, rows, items, self.memory)
        same = self.queries.codes[rows, None] == self.gallery.codes[columns]
        others = tile.masked_fill(same, -math.inf)
        tile.masked_fill_(~same, -math.inf)
        if self.offset is not None:
            place = torch.arange(rows.start, rows.stop, device=tile.device)
            tile[place - rows.start, place + self.offset - columns.start] = -math.inf
        tolerance = self.limits.tolerance[rows]
        self.limits.limit[rows] = torch.where(self.positives[rows] > 0, tile.amax(1) - tolerance, math.inf)
        if self.ladder:
            ordered = tile.sort(1, descending=True).values - tolerance[:, None]
            self.ladder.fill(rows, ordered, others.sort(1, descending=True).values)

    def _tiles(self) -> Iterator[slice]:
        """Yield runs of queries whose positives' similarities fit in memory."""
        start = 0
        while start < self.queries.rows.size:
            stop = min(start + _TILE, self.queries.rows.size)
            width = int(self.last[start:stop].max() - self.first[start:stop].min())
            fitting = max(1, self.memory // (64 * max(1, width)))
            stop = min(stop, start + fitting)
            yield slice(start, stop)
            start = stop

    def side(self) -> int:
        """Return the side that suits a block: in rows and columns."""
        # Half of the memory is for what sieving adds: rounded rows, copies of the rows that are left.
        sieved = sieve.supported(self.limits.limit.device)
        size = block_size(self.queries.rows.width, self.memory // 2 if sieved else self.memory)
        if self.workers > 1:
            size = min(size, max(_SIDE, self.gallery.rows.size // (_TURNS * self.workers)))
        return size

    def blocks(self, side: int) -> list[tuple[slice, slice]]:
        """Return the blocks, at most so large, that cover all pairs."""
        rows, columns = self.queries.rows.size, self.gallery.rows.size
        if self.mirrored:
            return list(triangle(0, rows, side))
        return list(rectangle(slice(0, rows), slice(0, columns), side))

    def count(self, blocks: list[tuple[slice, slice]]) -> None:
        """Count the items of some blocks, on all threads."""
        workers = max(1, min(self.workers, len(blocks)))
        ladders = [self.ladder.fresh() if self.ladder else None for _ in range(workers - 1)]
        counters = [self.counter, *map(self._counter, ladders)]
        free = iter(counters)

        def work(blocks: Iterator[tuple[slice, slice]]) -> None:
            counter = next(free)
            with full_precision(self.limits.limit.device):
                for rows, columns in blocks:
                    counter.add(rows, columns, self.mirrored)

        threads.share(work, blocks, workers)
        self.counter.merge(counters[1:])

    def ranks(self, group: distributed.ProcessGroup | None = None) -> Ranks:
        """Return the ranks, once the processes of a group have counted all blocks together."""
        if group:
            self.counter.join(group)
        best = torch.where(self.positives > 0, self.counter.count + 1, 0).cpu().numpy()
        zeros = np.zeros(len(best))
        ranks = Ranks(best, *(self.ladder.scores() if self.ladder else (zeros, zeros)))
        for query in self.counter.unclear.nonzero()[:, 0].tolist():
            self._rank_by_definition(query, ranks)
        return ranks

    def _rank_by_definition(self, query: int, ranks: Ranks) -> None:
        """Rank one query by the definition of a similarity, without any shortcut."""
        items = torch.arange(self.gallery.rows.size, device=self.first.device)
        value = exact_pairs(
            self.queries.rows, self.gallery.rows, torch.full_like(items, query), items, self.memory * self.workers
        )
        same = self.gallery.codes == self.queries.codes[query]
        others = value[~same].sort().values
        if self.offset is not None:
            same[query + self.offset] = False
        positives = value[same].sort(descending=True).values
        count = len(others) - torch.searchsorted(others, positives - self.limits.tolerance[query])
        step = torch.arange(1, len(positives) + 1, device=count.device)
        precision = (step / (step + count).double())[step + count <= len(positives)].cpu().numpy()
        ranks.best[query] = int(count[0]) + 1
        if self.ladder:
            summed = np.append(0.0, precision).cumsum()[-1]  # in the ladder's order, to the last bit
            ranks.average_precision[query] = summed / len(positives)
            ranks.r_precision[query] = len(precision) / len(positives)

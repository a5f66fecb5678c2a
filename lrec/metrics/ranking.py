"""Ranks positives by counting: exact, without sorting and without the matrix of all similarities.

The rank of a query's best positive is one plus the number of items of other classes that are at least as
similar. Rows are sorted by class, so the positives of a query are contiguous; the other items are counted block
by block (`counting`). Where the query set is the gallery, a block above the diagonal is counted for both its rows
and its columns. On a CPU, each thread counts its own blocks.

Exactness. A query that `counting` cannot decide even in float64 is ranked again with `ordered_products`,
the definition of a similarity. That is rare: the error of float64 is far below the tolerance of a tie, so the
difference between two similarities would have to equal that tolerance to 13 digits.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch

from lrec.compute import threads
from lrec.compute.device import is_gpu
from lrec.metrics import sieve
from lrec.metrics.blocks import block_size, leaf, rectangle, slices_within, triangle
from lrec.metrics.counting import BestThresholds, Counter, Labelled
from lrec.metrics.similarity import exact_block, exact_pairs, full_precision
from lrec.metrics.thresholds import Thresholds

_QUERIES, _QUERIES_ON_GPU = 128, 512  # queries whose positives are computed together
_POSITIVE_BYTES = 256  # memory per positive while items are counted at its threshold
_SIDE = 1024  # smallest side of a block for which a thread is started
_TURNS = 8  # blocks along a side per thread, so that all threads finish at about the same time


@dataclass(frozen=True)
class Ranks:
    """The ranks and precisions of Q queries, in the order of their rows.

    Attributes:
        best: (Q,) int64 rank of the best positive, from 1; 0 without a positive.
        average_precision: (Q,) float64 average precision at R, 0 without a positive or if it was not requested.
        r_precision: (Q,) float64 precision at R, likewise.
    """

    best: np.ndarray
    average_precision: np.ndarray
    r_precision: np.ndarray


def rank(queries: Labelled, gallery: Labelled, leave_one_out: bool, precision: bool, memory_bytes: int) -> Ranks:
    """Rank the best positive of every query, and with `precision` all positives ranked R or better.

    Args:
        queries: Q rows.
        gallery: G rows; with `leave_one_out`, the same rows as the queries.
        leave_one_out: query i is not compared with item i.
        precision: compute average precision and R-precision.
        memory_bytes: limit of the memory for blocks. With very large classes, several passes over the gallery are
            made if the similarities of all positives do not fit.
    """
    passes = []
    for rows in _passes(queries, gallery, precision, memory_bytes):
        some = Labelled(queries.rows.part(rows), queries.classes[rows])
        one = Pass(some, gallery, rows.start if leave_one_out else None, precision, memory_bytes)
        one.set_thresholds()
        one.count(one.blocks())
        passes.append(one.ranks())
    return Ranks(*(np.concatenate([getattr(x, field.name) for x in passes]) for field in fields(Ranks)))


def _passes(queries: Labelled, gallery: Labelled, precision: bool, memory_bytes: int) -> Iterator[slice]:
    """Return slices of queries whose positives fit in memory together: usually one slice with all queries."""
    if not precision:
        return iter([slice(0, queries.rows.size)])
    first = torch.searchsorted(gallery.classes, queries.classes)
    last = torch.searchsorted(gallery.classes, queries.classes, right=True)
    return slices_within(last - first + 1, max(1, memory_bytes // _POSITIVE_BYTES))


class Pass:
    """One pass of some queries over the gallery: first thresholds, then blocks, then ranks.

    Args:
        queries: the queries of this pass.
        gallery: the whole gallery.
        offset: with leave-one-out, query i is gallery item i + offset; otherwise None.
        precision: see `rank`.
        memory_bytes: see `rank`.
    """

    def __init__(
        self, queries: Labelled, gallery: Labelled, offset: int | None, precision: bool, memory_bytes: int
    ) -> None:
        self.queries, self.gallery, self.offset = queries, gallery, offset
        self.mirrored = offset == 0 and queries.rows.size == gallery.rows.size
        self.first = torch.searchsorted(gallery.classes, queries.classes)
        self.last = torch.searchsorted(gallery.classes, queries.classes, right=True)
        # Copied to the CPU, where they determine block sizes. Both ascend, since rows are sorted by class.
        self._bounds = torch.stack([self.first, self.last]).cpu().numpy()
        self.positives = self.last - self.first - int(offset is not None)
        self.best = BestThresholds.unset(queries.rows, gallery.rows)
        self.thresholds = Thresholds.empty(self.positives, self.best.float64_margin) if precision else None
        self.workers = self._number_of_workers(memory_bytes)
        self.memory = memory_bytes // self.workers
        self.counter = self._counter(self.thresholds)

    def _number_of_workers(self, memory_bytes: int) -> int:
        """Return how many threads can count in this memory, each with blocks that are not too small."""
        if is_gpu(self.queries.classes.device):
            return 1
        return max(1, min(torch.get_num_threads(), memory_bytes // (12 * _SIDE * (_SIDE + self.queries.rows.width))))

    def _counter(self, thresholds: Thresholds | None) -> Counter:
        return Counter(self.queries, self.gallery, self.best, thresholds, self.memory)

    def set_thresholds(self) -> None:
        """Find the similarity an item must have to count against a query's positives."""
        threads.distribute(self._set_thresholds, self._neighbours(), self.workers)

    def _set_thresholds(self, slices: Iterator[slice]) -> None:
        with full_precision(self.best.values.device):
            for rows in slices:
                self._set_thresholds_of(rows)

    def _set_thresholds_of(self, rows: slice) -> None:
        columns = slice(int(self._bounds[0, rows.start]), int(self._bounds[1, rows.stop - 1]))
        if columns.start >= columns.stop:
            return
        items = torch.arange(columns.start, columns.stop, device=self.first.device)
        similar = exact_block(self.queries.rows, self.gallery.rows, rows, items, self.memory)
        same = self.queries.classes[rows, None] == self.gallery.classes[columns]
        others = similar.masked_fill(same, -math.inf)
        similar.masked_fill_(~same, -math.inf)
        if self.offset is not None:
            place = torch.arange(rows.start, rows.stop, device=similar.device)
            similar[place - rows.start, place + self.offset - columns.start] = -math.inf
        tolerance = self.best.tolerance[rows]
        self.best.values[rows] = torch.where(self.positives[rows] > 0, similar.amax(1) - tolerance, math.inf)
        if self.thresholds:
            ordered = similar.sort(1, descending=True).values - tolerance[:, None]
            self.thresholds.fill(rows, ordered, others.sort(1, descending=True).values)

    def _neighbours(self) -> Iterator[slice]:
        """Yield slices of queries whose positives' similarities fit in memory."""
        start = 0
        while start < self.queries.rows.size:
            together = _QUERIES_ON_GPU if is_gpu(self.first.device) else _QUERIES
            stop = min(start + together, self.queries.rows.size)
            width = int(self._bounds[1, stop - 1] - self._bounds[0, start])
            fitting = max(1, self.memory // (64 * max(1, width)))
            stop = min(stop, start + fitting)
            yield slice(start, stop)
            start = stop

    def blocks(self) -> list[tuple[slice, slice]]:
        """Return blocks that cover all pairs, of a size that suits the memory and the number of threads."""
        # Sieving needs half of the memory for rounded rows and for copies of the rows that are left.
        sieved = sieve.supported(self.best.values.device)
        size = block_size(self.queries.rows.width, self.memory // 2 if sieved else self.memory)
        rows, columns = self.queries.rows.size, self.gallery.rows.size
        if self.workers > 1:
            size = min(size, max(_SIDE, columns // (_TURNS * self.workers)))
        if self.mirrored:
            return list(triangle(0, rows, size, leaf(self.best.values.device)))
        return list(rectangle(slice(0, rows), slice(0, columns), size))

    def count(self, blocks: list[tuple[slice, slice]]) -> None:
        """Count the items of some blocks, on all threads."""
        workers = max(1, min(self.workers, len(blocks)))
        copies = [self.thresholds.uncounted() if self.thresholds else None for _ in range(workers - 1)]
        counters = [self.counter, *map(self._counter, copies)]
        free = iter(counters)

        def work(blocks: Iterator[tuple[slice, slice]]) -> None:
            counter = next(free)
            with full_precision(self.best.values.device):
                for rows, columns in blocks:
                    counter.add(rows, columns, self.mirrored)

        threads.distribute(work, blocks, workers)
        self.counter.merge(counters[1:])

    def ranks(self) -> Ranks:
        """Return the ranks, once all blocks have been counted."""
        best = torch.where(self.positives > 0, self.counter.count + 1, 0).cpu().numpy()
        zeros = np.zeros(len(best))
        ranks = Ranks(best, *(self.thresholds.scores() if self.thresholds else (zeros, zeros)))
        for query in self.counter.undecided.nonzero()[:, 0].tolist():
            self._rank_by_definition(query, ranks)
        return ranks

    def _rank_by_definition(self, query: int, ranks: Ranks) -> None:
        """Rank one query by the definition of a similarity, without shortcuts."""
        items = torch.arange(self.gallery.rows.size, device=self.first.device)
        value = exact_pairs(
            self.queries.rows, self.gallery.rows, torch.full_like(items, query), items, self.memory * self.workers
        )
        same = self.gallery.classes == self.queries.classes[query]
        others = value[~same].sort().values
        if self.offset is not None:
            same[query + self.offset] = False
        positives = value[same].sort(descending=True).values
        count = len(others) - torch.searchsorted(others, positives - self.best.tolerance[query])
        step = torch.arange(1, len(positives) + 1, device=count.device)
        precision = (step / (step + count).double())[step + count <= len(positives)].cpu().numpy()
        ranks.best[query] = int(count[0]) + 1
        if self.thresholds:
            summed = np.append(0.0, precision).cumsum()[-1]  # same order, and so the same bits, as `Thresholds.scores`
            ranks.average_precision[query] = summed / len(positives)
            ranks.r_precision[query] = len(precision) / len(positives)

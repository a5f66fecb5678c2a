"""Counts at the thresholds of all positives of a query, for MAP@R and R-precision.

The threshold of a positive is the similarity that an item of another class must reach to be ranked before
it. If a query has R positives, only those ranked R or better matter. The thresholds of a query are sorted in
descending order; an item is counted at the first one that it reaches, and is ranked before that positive and
all later ones. As soon as a positive is known to rank below R, it and all later ones are dropped. Few items
then reach the lowest remaining threshold, and they can be examined one by one.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from lrec.compute.device import is_gpu


@dataclass
class Thresholds:
    """The thresholds of the positives of Q queries, P in all, and the items counted at each.

    Attributes:
        start: (Q,) int64, where the thresholds of a query begin.
        size: (Q,) int64, R, the number of positives of each query.
        active: (Q,) int64, number of positives that may still rank R or better.
        values: (P,) float64; an item counts against a positive if its similarity is at least this.
        margin: (Q,) float64; a float64 similarity closer than this to a threshold is in doubt.
        counts: (P,) int64, items that reach this threshold and not the one before.
        bounds: (Q + 1,) int64 on the CPU: where the thresholds of a query begin, followed by P.
    """

    start: torch.Tensor
    size: torch.Tensor
    active: torch.Tensor
    values: torch.Tensor
    margin: torch.Tensor
    counts: torch.Tensor
    bounds: np.ndarray

    @classmethod
    def empty(cls, size: torch.Tensor, margin: torch.Tensor) -> "Thresholds":
        """Allocate memory for queries with these numbers of positives; `fill` sets the values."""
        bounds = np.append(0, size.cpu().numpy().cumsum())
        total = int(bounds[-1])
        values = torch.empty(total, dtype=torch.float64, device=size.device)
        counts = torch.zeros(total, dtype=torch.int64, device=size.device)
        return cls(size.cumsum(0) - size, size, size.clone(), values, margin, counts, bounds)

    @property
    def most(self) -> int:
        """Return the largest number of positives that a query has."""
        return int(np.diff(self.bounds).max(initial=0))

    def uncounted(self) -> "Thresholds":
        """Return the same thresholds with all counts zero; their values are not copied."""
        return replace(self, active=self.active.clone(), counts=torch.zeros_like(self.counts))

    def merge(self, others: "list[Thresholds]") -> None:
        """Add the counts of other copies of these thresholds; positives dropped in any copy are dropped."""
        for other in others:
            self.counts += other.counts
            torch.minimum(self.active, other.active, out=self.active)
        self.prune(torch.arange(len(self.size), device=self.size.device))

    def fill(self, rows: slice, values: torch.Tensor, others: torch.Tensor) -> None:
        """Set the thresholds of some queries, and drop those that a sample of other items already rules out.

        Args:
            rows: n queries.
            values: (n, W) float64, the thresholds of each query in descending order; the rest of a row is ignored.
            others: (n, W) float64, similarities of items of other classes, descending, -inf for none.
        """
        size = self.size[rows, None]
        step = torch.arange(values.shape[1], device=values.device)
        present = step < size
        first, last = self.bounds[rows.start], self.bounds[rows.stop]
        line, place = self._places(self.size[rows], int(last - first))
        self.values[first:last] = values[line, place]
        # Positive j (from 0) ranks below R if R - j other items reach its threshold.
        rival = others.gather(1, (size - 1 - step).clamp(min=0))
        self.active[rows] = (present & (rival < values + self.margin[rows, None])).sum(1)

    def lowest(self, query: torch.Tensor) -> torch.Tensor:
        """Return the lowest active threshold of each of (n,) queries; infinity where there is none."""
        active = self.active[query]
        if not len(self.values):
            return torch.full_like(self.margin[query], torch.inf)
        last = (self.start[query] + active - 1).clamp(0, len(self.values) - 1)
        return torch.where(active > 0, self.values[last], torch.inf)

    def locate(self, query: torch.Tensor, similarity: torch.Tensor) -> torch.Tensor:
        """Return for (n,) queries and similarities the first threshold reached, from 0; `active` if none is."""
        low, high = torch.zeros_like(query), self.active[query]
        # On a GPU, a few extra iterations are faster than copying the number needed to the CPU.
        most = self.most if is_gpu(query.device) else int(self.active.max())
        for _ in range(most.bit_length()):
            middle = (low + high) // 2
            reached = (low < high) & (self._value(query, middle) <= similarity)
            low = torch.where(reached | (low >= high), low, middle + 1)
            high = torch.where(reached, middle, high)
        return low

    def distance(self, query: torch.Tensor, similarity: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Return how far (n,) similarities located at `place` are from the nearest active threshold."""
        above = torch.where(place > 0, self._value(query, place - 1) - similarity, torch.inf)
        below = torch.where(place < self.active[query], similarity - self._value(query, place), torch.inf)
        return torch.minimum(above, below)

    def add(self, query: torch.Tensor, place: torch.Tensor) -> None:
        """Count (n,) items at the thresholds where they were located."""
        kept = place < self.active[query]
        self.counts.index_add_(0, (self.start[query] + place).clamp(max=len(self.counts) - 1), kept.long())

    def prune(self, query: torch.Tensor) -> None:
        """Drop the positives of (n,) queries that the items counted so far rule out."""
        size, active = self.size[query], self.active[query]
        line, step, before = self._ranked_before(query)
        fits = (step + 1 + before <= size[line]) & (step < active[line])
        self.active[query] = torch.zeros_like(size).index_add_(0, line, fits.long())

    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the average precision at R and the precision at R, (Q,) float64 each, 0 where R is 0."""
        everyone = torch.arange(len(self.size), device=self.size.device)
        query, step, before = torch.stack(self._ranked_before(everyone)).cpu().numpy()
        size, active = torch.stack([self.size, self.active]).cpu().numpy()
        hit = step < active[query]
        precision = (step + 1) / (step + 1 + before)
        summed = np.bincount(query[hit], precision[hit], minlength=len(size))
        return summed / np.maximum(size, 1), active / np.maximum(size, 1)

    @staticmethod
    def _places(size: torch.Tensor, total: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the line of each of `total` positives and its place in the line, for lines of these sizes."""
        lines = torch.arange(len(size), device=size.device)
        line = torch.repeat_interleave(lines, size, output_size=total)
        return line, torch.arange(total, device=size.device) - (size.cumsum(0) - size)[line]

    def _value(self, query: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        return self.values[(self.start[query] + place).clamp(0, len(self.values) - 1)]

    def _ranked_before(self, query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return, for every positive of (n,) queries, its line, its place from 0, and the items ranked before it."""
        size = self.size[query]
        total = len(self.counts) if len(query) == len(self.size) else int(size.sum())
        line, step = self._places(size, total)
        first = (size.cumsum(0) - size)[line]
        counts = self.counts[self.start[query][line] + step]
        summed = counts.cumsum(0)
        return line, step, summed - summed[first] + counts[first]

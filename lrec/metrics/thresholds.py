"""Counts at every positive of a query, for MAP@R and R-precision.

Of a query with R positives only those ranked R or better matter. Its ladder holds the limits of its
positives in descending order; an item of another class lands on the first limit it reaches, and counts
against that positive and all after it. As soon as a positive is known to rank below R it is dropped with
all after it, so that soon few items reach the lowest limit left and single items can be looked at.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import distributed


@dataclass
class Ladder:
    """Limits of the positives of Q queries, P in all, and the items counted at each.

    Attributes:
        start: (Q,) int64, where the limits of a query begin.
        size: (Q,) int64, R, the positives of each query.
        live: (Q,) int64, how many of them may still rank R or better.
        limits: (P,) float64; an item counts against a positive if its similarity is at least this.
        slack: (Q,) float64, how close to a limit a float64 similarity is in doubt.
        landed: (P,) int64, items counted at this limit and not at the one before.
    """

    start: torch.Tensor
    size: torch.Tensor
    live: torch.Tensor
    limits: torch.Tensor
    slack: torch.Tensor
    landed: torch.Tensor

    @classmethod
    def empty(cls, size: torch.Tensor, slack: torch.Tensor) -> "Ladder":
        """Make a ladder for queries with these numbers of positives; `fill` sets the limits."""
        total = int(size.sum())
        limits = torch.empty(total, dtype=torch.float64, device=size.device)
        landed = torch.zeros(total, dtype=torch.int64, device=size.device)
        return cls(size.cumsum(0) - size, size, size.clone(), limits, slack, landed)

    def fresh(self) -> "Ladder":
        """Return a ladder with the same limits on which no item has landed; the limits are not copied."""
        return replace(self, live=self.live.clone(), landed=torch.zeros_like(self.landed))

    def merge(self, others: "list[Ladder]") -> None:
        """Add what was counted on other ladders with these limits; positives that one has dropped are dropped."""
        for other in others:
            self.landed += other.landed
            torch.minimum(self.live, other.live, out=self.live)
        self._prune_all()

    def fill(self, rows: slice, limits: torch.Tensor, others: torch.Tensor) -> None:
        """Set the limits of some queries, and drop those that a sample of other items already rules out.

        Args:
            rows: n queries.
            limits: (n, W) float64, the limits of each query in descending order, then anything.
            others: (n, W) float64, similarities of items of other classes, descending, -inf for none.
        """
        size = self.size[rows, None]
        step = torch.arange(limits.shape[1], device=limits.device)
        present = step < size
        begin, count = int(self.start[rows][0]), int(size.sum())
        self.limits[begin : begin + count] = limits[present]
        # Positive j (from 0) ranks below R if R - j other items reach its limit.
        rival = others.gather(1, (size - 1 - step).clamp(min=0))
        self.live[rows] = (present & (rival < limits + self.slack[rows, None])).sum(1)

    def lowest(self, query: torch.Tensor) -> torch.Tensor:
        """Return the lowest limit that still matters for each of (n,) queries; infinity where none does."""
        live = self.live[query]
        if not len(self.limits):
            return torch.full_like(self.slack[query], torch.inf)
        last = (self.start[query] + live - 1).clamp(0, len(self.limits) - 1)
        return torch.where(live > 0, self.limits[last], torch.inf)

    def land(self, query: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return for (n,) queries and similarities the first limit reached, from 0; `live` if none is."""
        low, high = torch.zeros_like(query), self.live[query]
        for _ in range(int(self.live.max()).bit_length()):
            middle = (low + high) // 2
            reached = (low < high) & (self._limit(query, middle) <= value)
            low = torch.where(reached | (low >= high), low, middle + 1)
            high = torch.where(reached, middle, high)
        return low

    def gap(self, query: torch.Tensor, value: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Return the distance of (n,) similarities that land at `place` to the nearest live limit."""
        above = torch.where(place > 0, self._limit(query, place - 1) - value, torch.inf)
        below = torch.where(place < self.live[query], value - self._limit(query, place), torch.inf)
        return torch.minimum(above, below)

    def add(self, query: torch.Tensor, place: torch.Tensor) -> None:
        """Count items against the limits where they landed."""
        kept = place < self.live[query]
        self.landed.index_add_(0, (self.start[query] + place)[kept], torch.ones_like(place[kept]))

    def prune(self, query: torch.Tensor) -> None:
        """Drop the positives of (n,) queries that the items counted so far rule out."""
        size, live = self.size[query], self.live[query]
        line, step, count = self._counts(query)
        fits = (step + 1 + count <= size[line]) & (step < live[line])
        self.live[query] = torch.zeros_like(size).index_add_(0, line, fits.long())

    def _prune_all(self) -> None:
        self.prune(torch.arange(len(self.size), device=self.size.device))

    def join(self, group: distributed.ProcessGroup) -> None:
        """Add up what several processes counted; positives that one of them dropped are dropped by all."""
        distributed.all_reduce(self.landed, group=group)
        distributed.all_reduce(self.live, distributed.ReduceOp.MIN, group=group)
        self._prune_all()

    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the average precision at R and the precision at R, (Q,) float64 each, 0 where R is 0."""
        everyone = torch.arange(len(self.size), device=self.size.device)
        query, step, count = (x.cpu().numpy() for x in self._counts(everyone))
        size, live = self.size.cpu().numpy(), self.live.cpu().numpy()
        hit = step < live[query]
        precision = (step + 1) / (step + 1 + count)
        summed = np.bincount(query[hit], precision[hit], minlength=len(size))
        return summed / np.maximum(size, 1), live / np.maximum(size, 1)

    def _limit(self, query: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        return self.limits[(self.start[query] + place).clamp(0, len(self.limits) - 1)]

    def _counts(self, query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return for every positive of (n,) queries its line, its place from 0, and the items counted against it."""
        size = self.size[query]
        line = torch.repeat_interleave(torch.arange(len(query), device=query.device), size)
        first = (size.cumsum(0) - size)[line]
        step = torch.arange(len(line), device=query.device) - first
        landed = self.landed[self.start[query][line] + step]
        summed = landed.cumsum(0)
        return line, step, summed - summed[first] + landed[first]

"""Partitions a similarity matrix into blocks that fit in memory, and blocks into tiles that fit in the cache.

Rows and columns are sorted by class, so the pairs of one class lie near the diagonal.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lrec.compute.device import is_gpu
from lrec.metrics.similarity import Rows

_TILE = 1024  # rows and columns of a tile on a CPU; on a GPU a block is one tile
# Rows of a block on the diagonal; half of such a block is redundant.
_LEAF, _LEAF_ON_GPU = 1024, 6144


def block_size(width: int, memory_bytes: int) -> int:
    """Return the side B, at least 8, of the largest block that can be computed in this memory.

    A block needs 12 B^2 bytes (float32 values, a copy of some of its rows, masks), plus 12 B d for the rows
    that are multiplied, where d is their `width`.
    """
    side = math.sqrt(width * width / 4 + memory_bytes / 12) - width / 2
    return max(8, int(side) // 8 * 8)


def leaf(device: torch.device) -> int:
    """Return the side of the largest block on the diagonal: a few large products are faster on a GPU than many."""
    return _LEAF_ON_GPU if is_gpu(device) else _LEAF


def triangle(start: int, stop: int, size: int, largest: int = _LEAF) -> Iterator[tuple[slice, slice]]:
    """Yield the blocks that cover the pairs i <= j of a range; those on the diagonal are squares up to `largest`."""
    if stop - start <= min(size, largest):
        yield slice(start, stop), slice(start, stop)
        return
    middle = (start + stop) // 2
    yield from triangle(start, middle, size, largest)
    yield from rectangle(slice(start, middle), slice(middle, stop), size)
    yield from triangle(middle, stop, size, largest)


def rectangle(rows: slice, columns: slice, size: int) -> Iterator[tuple[slice, slice]]:
    """Yield blocks with sides of at most `size` that cover two ranges."""
    for some in split(rows, size):
        for others in split(columns, size):
            yield some, others


def split(whole: slice, size: int) -> Iterator[slice]:
    """Cut a range into slices of nearly equal length, at most `size`."""
    length = whole.stop - whole.start
    number = -(-length // size)
    for i in range(number):
        yield slice(whole.start + length * i // number, whole.start + length * (i + 1) // number)


def slices_within(counts: torch.Tensor, limit: int) -> Iterator[slice]:
    """Yield slices of consecutive rows whose counts add up to at most about `limit`; none if all counts are zero."""
    counts = counts.cpu()
    if counts.any():
        start = 0
        group = counts.cumsum(0) // limit
        for length in group.unique_consecutive(return_counts=True)[1].tolist():
            yield slice(start, start + length)
            start += length


@dataclass(frozen=True)
class Segment:
    """The rows along one edge of a tile.

    Attributes:
        numbers: (n,) int64, ascending row numbers.
        classes: (n,) int64 class numbers, ascending.
        values: (n, d) float32.
        rounded: (n, d) bfloat16, the same rows rounded, or None.
    """

    numbers: torch.Tensor
    classes: torch.Tensor
    values: torch.Tensor
    rounded: torch.Tensor | None = None

    def select(self, places: torch.Tensor) -> "Segment":
        """Return some of the rows, in float32 only."""
        return Segment(self.numbers[places], self.classes[places], self.values[places])


def segments(rows: Rows, classes: torch.Tensor, edge: slice, rounded: bool) -> list[Segment]:
    """Read the rows along one edge of a block and cut them into the edges of its tiles.

    Args:
        rows: the queries or the gallery.
        classes: (N,) int64, their class numbers.
        edge: the rows to read.
        rounded: whether to add a copy rounded to bfloat16.
    """
    values = rows.take(edge, torch.float32)
    numbers = torch.arange(edge.start, edge.stop, device=values.device)
    short = values.bfloat16() if rounded else None
    size = len(values) if is_gpu(values.device) else _TILE
    cuts = split(slice(0, len(values)), size)
    return [Segment(numbers[x], classes[edge][x], values[x], None if short is None else short[x]) for x in cuts]


def mask_same_class(tile: torch.Tensor, queries: Segment, items: Segment) -> torch.Tensor:
    """Write -inf into a tile of similarities where the query and the item have the same class."""
    # On a GPU, comparing all classes is faster than copying the first and the last to the CPU.
    if is_gpu(tile.device) or (queries.classes[-1] >= items.classes[0] and queries.classes[0] <= items.classes[-1]):
        tile.masked_fill_(queries.classes[:, None] == items.classes, -math.inf)
    return tile

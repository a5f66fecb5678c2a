"""Cutting a similarity matrix into blocks that fit in memory and parts that fit in cache, and counting in them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lrec.metrics.similarity import Rows

_SIDE = 1024  # rows and columns of a piece on a CPU; elsewhere a block is one piece
_LEAF = 1024  # rows of a block on the diagonal, half of which is computed in vain
_STRIP = 2**20  # values compared at a time; a float32 count of so few is exact


def block_size(width: int, memory_bytes: int) -> int:
    """Return the side B of the largest block whose work fits in a number of bytes, at least 8.

    A block needs 12 B^2 bytes (float32 values, a copy of some of its rows, masks) and 12 B d for the
    rows it is made of, d being their `width`.
    """
    side = math.sqrt(width * width / 4 + memory_bytes / 12) - width / 2
    return max(8, int(side) // 8 * 8)


def triangle(start: int, stop: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Yield the blocks that cover the pairs i <= j of a range; those on the diagonal are small squares."""
    if stop - start <= min(size, _LEAF):
        yield slice(start, stop), slice(start, stop)
        return
    middle = (start + stop) // 2
    yield from triangle(start, middle, size)
    yield from rectangle(slice(start, middle), slice(middle, stop), size)
    yield from triangle(middle, stop, size)


def rectangle(rows: slice, columns: slice, size: int) -> Iterator[tuple[slice, slice]]:
    """Yield blocks with sides of at most `size` that cover two ranges."""
    for part in split(rows, size):
        for other in split(columns, size):
            yield part, other


def split(whole: slice, size: int) -> Iterator[slice]:
    """Cut a range into parts of nearly equal length, at most `size`."""
    length = whole.stop - whole.start
    parts = -(-length // size)
    for i in range(parts):
        yield slice(whole.start + length * i // parts, whole.start + length * (i + 1) // parts)


def at_least(block: torch.Tensor, limits: torch.Tensor, axis: int) -> torch.Tensor:
    """Count, for every line along an axis, the values at or above the line's own limit.

    Args:
        block: (n, m) floats.
        limits: (n,) for rows, axis 0, or (m,) for columns, axis 1; compared in the block's dtype.
        axis: 0 or 1.

    Returns:
        (n,) or (m,) int64. The comparison is written as floats, into a buffer that stays in the
        processor's cache, and summed: several times as fast as booleans on a CPU.
    """
    height, width = block.shape
    limits = limits.to(block.dtype).unsqueeze(1 - axis)
    total = torch.zeros(limits.numel(), dtype=torch.int64, device=block.device)
    size = max(1, _STRIP // width)
    buffer = torch.empty(min(size, height), width, device=block.device)
    for start in range(0, height, size):
        rows = slice(start, min(start + size, height))
        reached = buffer[: rows.stop - rows.start]
        if axis == 0:
            torch.ge(block[rows], limits[rows], out=reached)
            total[rows] = reached.sum(1).long()
        else:
            torch.ge(block[rows], limits, out=reached)
            total += reached.sum(0).long()
    return total


def batches(counts: torch.Tensor, limit: int) -> Iterator[slice]:
    """Yield runs of lines whose counts add up to about `limit` at most; none if all counts are zero."""
    if counts.any():
        start = 0
        run = counts.cumsum(0) // limit
        for length in run.unique_consecutive(return_counts=True)[1].tolist():
            yield slice(start, start + length)
            start += length


@dataclass(frozen=True)
class Part:
    """One side of a piece: n rows of a side of the block.

    Attributes:
        numbers: (n,) int64, ascending row numbers.
        codes: (n,) int64 class codes, ascending.
        values: (n, d) float32.
        narrow: (n, d) bfloat16, the same rows rounded, or None.
    """

    numbers: torch.Tensor
    codes: torch.Tensor
    values: torch.Tensor
    narrow: torch.Tensor | None = None

    def some(self, rows: torch.Tensor) -> "Part":
        """Return some of the rows."""
        return Part(self.numbers[rows], self.codes[rows], self.values[rows])


def parts(rows: Rows, codes: torch.Tensor, place: slice, narrow: bool) -> list[Part]:
    """Read the rows of one side of a block and cut them into parts; `narrow` says whether to round them too."""
    values = rows.take(place, torch.float32)
    numbers = torch.arange(place.start, place.stop, device=values.device)
    rounded = values.bfloat16() if narrow else None
    size = _SIDE if values.device.type == "cpu" else len(values)
    cuts = split(slice(0, len(values)), size)
    return [Part(numbers[x], codes[place][x], values[x], rounded[x] if rounded is not None else None) for x in cuts]


def without_own(block: torch.Tensor, mine: Part, theirs: Part) -> torch.Tensor:
    """Put -inf in a block of similarities where both items are of one class."""
    if mine.codes[-1] >= theirs.codes[0] and mine.codes[0] <= theirs.codes[-1]:
        block.masked_fill_(mine.codes[:, None] == theirs.codes, -math.inf)
    return block

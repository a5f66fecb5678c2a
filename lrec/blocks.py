"""Cutting a similarity matrix into blocks that fit in memory, and counting inside a block."""

import math
from collections.abc import Iterator

import torch

_LEAF = 1024  # rows of a block on the diagonal, half of which is computed in vain
_BYTE = 255  # additions of 0 or 1 that a byte can take


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
    for part in _split(rows, size):
        for other in _split(columns, size):
            yield part, other


def _split(whole: slice, size: int) -> Iterator[slice]:
    """Cut a range into parts of nearly equal length."""
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
        (n,) or (m,) int64. The bytes of the comparison are added eight at a time as int64, 255 at most
        before the bytes are read: ten times as fast as summing booleans.
    """
    height, width = block.shape
    mask = torch.empty(height, -(-width // 8) * 8, dtype=torch.bool, device=block.device)
    mask[:, width:] = False
    torch.ge(block, limits.to(block.dtype).unsqueeze(1 - axis), out=mask[:, :width])
    total = torch.zeros_like(limits, dtype=torch.int64)
    for words in mask.view(torch.int64).split(_BYTE, dim=1 - axis):
        counts = words.sum(1 - axis).view(torch.uint8)
        total += counts.view(height, 8).sum(1) if axis == 0 else counts[:width]
    return total


def batches(counts: torch.Tensor, limit: int) -> Iterator[slice]:
    """Yield runs of lines whose counts add up to about `limit` at most; none if all counts are zero."""
    if counts.any():
        start = 0
        run = counts.cumsum(0) // limit
        for length in run.unique_consecutive(return_counts=True)[1].tolist():
            yield slice(start, start + length)
            start += length

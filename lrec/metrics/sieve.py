"""Approximate products in bfloat16, which find the few queries and items of a tile that may count.

CPUs with bfloat16 instructions multiply about twice as fast in bfloat16 as in float32. An item whose approximate
product is below the query's threshold by more than the proved error cannot count; only the remaining queries and
items are multiplied in float32. So sieving does not change the metrics.
"""

from collections.abc import Callable, Sequence

import torch

from lrec.compute.device import bfloat16_instructions
from lrec.metrics.blocks import Segment, mask_same_class
from lrec.metrics.similarity import rounding

_UNIT = 2.0**-8  # half the distance from 1 to the next bfloat16
_TINY = torch.finfo(torch.float32).tiny
_MANY = 1 / 2  # if more than this fraction of a tile is left, computing the whole tile is cheaper
_LONGEST = 64  # most tiles in a row that are not sieved


def supported(device: torch.device) -> bool:
    """Return whether the CPU has Intel's or AMD's bfloat16 instructions: fast, and rounding as `error` assumes."""
    return device.type == "cpu" and not bfloat16_instructions().isdisjoint(("avx512_bf16", "amx_bf16"))


class Sieve:
    """Rules out most of a tile. After sieving a tile in vain, it skips tiles, twice as many each time."""

    def __init__(self, width: int, lengths: torch.Tensor) -> None:
        """Set the dimension d and, for every query, its length times that of the longest gallery item."""
        self._error = error(width, lengths)
        self._skips, self._pause = 0, 1

    def sift(
        self, rows: Segment, columns: Segment, axes: Sequence[int], lowest: Callable[[torch.Tensor], torch.Tensor]
    ) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        """Return which queries and items of a tile must be examined; None for the whole tile.

        Args:
            rows: rows of the tile.
            columns: columns of the tile.
            axes: 0 if the rows are queries, 1 if the columns are, or both.
            lowest: maps query numbers to the lowest similarity that may count.

        Returns:
            For every axis, the places of the queries and of the items in their segments. No other pair counts.
        """
        if self._skips:
            self._skips -= 1
            return None
        tile = mask_same_class(products(rows.rounded, columns.rounded), rows, columns)
        numbers = (rows.numbers, columns.numbers)
        least = [lowest(numbers[axis]) - self._error[numbers[axis]] for axis in axes]
        left = [reaching(tile, value, axis) for value, axis in zip(least, axes, strict=True)]
        if sum(len(lines) * len(others) for lines, others in left) <= _MANY * tile.numel():
            self._pause = 1
            return left
        self._skips, self._pause = self._pause, min(2 * self._pause, _LONGEST)
        return None


def products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return all dot products of (n, d) with (m, d) bfloat16 rows as (n, m) bfloat16.

    They are summed in float32, within `error` of the products of the unrounded rows, and then rounded to bfloat16,
    which keeps their order.
    """
    return a @ b.T


def error(width: int, lengths: torch.Tensor) -> torch.Tensor:
    """Bound the error of `products` of d = `width` terms before the last rounding.

    Args:
        width: d.
        lengths: float64 of any shape: the product of the lengths of the two vectors.

    Returns:
        The bounds, float64, in the shape of `lengths`. Rounding moves a vector by at most 2^-8 of its length, so by
        Cauchy-Schwarz, rounding both vectors moves their product by at most (2 * 2^-8 + 2^-16) times `lengths`. To
        this is added the error of summation in float32, in one section. The last term is due to the instructions,
        which treat numbers below float32's normal range as zero.
    """
    moved = (1 + _UNIT) ** 2
    summed = rounding(width, torch.float32, moved * lengths, section=width)
    return (moved - 1) * lengths + summed + 8 * width * _TINY


def reaching(tile: torch.Tensor, least: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which lines along an axis hold a value at or above the line's own lower bound, and where.

    Args:
        tile: (n, m) bfloat16, contiguous.
        least: lower bounds, (n,) for rows (axis 0) or (m,) for columns (axis 1); rounded down to bfloat16.
        axis: 0 or 1.

    Returns:
        The lines, and the places where any of these lines holds such a value; int64, ascending. If a lower
        bound is not positive, all values of its line count. The bits of bfloat16 are compared as integers,
        which is several times as fast: positive values keep their order, and all others are smaller.
    """
    bits = least.float().view(torch.int32).bitwise_right_shift(16).to(torch.int16)
    bits.masked_fill_(least <= _TINY, torch.iinfo(torch.int16).min)
    values = tile.view(torch.int16)
    lines = (values.amax(1 - axis) >= bits).nonzero()[:, 0]
    reached = values.index_select(axis, lines) >= bits[lines].unsqueeze(1 - axis)
    return lines, reached.any(axis).nonzero()[:, 0]

"""Rough products in bfloat16, which find the few queries and items of a tile that may count.

A CPU with bfloat16 instructions multiplies about twice as fast in them as in float32. An item whose rough product
stays below the query's threshold by more than the proved error need not be counted; only queries and items with other
products are multiplied in float32. So the figures do not depend on what is computed here.
"""

from collections.abc import Callable, Sequence

import torch

from lrec.compute.device import bfloat16_instructions
from lrec.metrics.blocks import Segment, mask_same_class
from lrec.metrics.similarity import rounding

_UNIT = 2.0**-8  # half the distance from 1 to the next bfloat16
_TINY = torch.finfo(torch.float32).tiny
_MANY = 1 / 2  # fraction of a tile that is left above which all of it is cheaper to compute
_LONGEST = 64  # tiles to skip sieving for, at most


def supported(device: torch.device) -> bool:
    """Say whether the CPU's bfloat16 instructions are Intel's or AMD's: faster, and rounding as the proof assumes."""
    return device.type == "cpu" and not bfloat16_instructions().isdisjoint(("avx512_bf16", "amx_bf16"))


class Sieve:
    """Rules out most of a tile. After a tile where sieving did not pay off, it skips tiles, twice as many each time."""

    def __init__(self, width: int, lengths: torch.Tensor) -> None:
        """Take d and, for every query, its length times that of the longest gallery item."""
        self._error = error(width, lengths)
        self._skips, self._pause = 0, 1

    def sift(
        self, rows: Segment, columns: Segment, axes: Sequence[int], lowest: Callable[[torch.Tensor], torch.Tensor]
    ) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        """Say which queries and items of a tile must be looked at; None for the whole tile.

        Args:
            rows: of the tile.
            columns: of the tile.
            axes: 0 for the rows as queries, 1 for the columns.
            lowest: maps query numbers to the least similarity that may count.

        Returns:
            For every axis the places of the queries and of the items in their segments. Pairs of other
            queries and items do not count.
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

    They are summed in float32, within `error` of the products of the rows before those were rounded to
    bfloat16, and then rounded once more, which keeps their order.
    """
    return a @ b.T


def error(width: int, lengths: torch.Tensor) -> torch.Tensor:
    """Bound the error of `products` of d = `width` terms before their last rounding.

    Args:
        width: d.
        lengths: any shape, float64: for each bound, the product of the lengths of the two vectors.

    Returns:
        The bounds, float64. Rounding moves a vector by at most 2^-8 of its length, so by Cauchy-Schwarz
        two rounded vectors move their product by (2 * 2^-8 + 2^-16) of the lengths. The
        error of summation in float32, in one section, is added. These instructions treat numbers below
        float32's normal range as zero: the last term.
    """
    moved = (1 + _UNIT) ** 2
    summed = rounding(width, torch.float32, moved * lengths, section=width)
    return (moved - 1) * lengths + summed + 8 * width * _TINY


def reaching(tile: torch.Tensor, least: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which lines along an axis hold a value at or above the line's own least value, and where.

    Args:
        tile: (n, m) bfloat16, contiguous.
        least: (n,) for rows, axis 0, or (m,) for columns, axis 1; rounded down to bfloat16.
        axis: 0 or 1.

    Returns:
        Numbers of lines, and of the places where one of these lines holds such a value; int64, ascending.
        All values count as above a least value that is not above zero. The bits of bfloat16 are compared as
        whole numbers, several times as fast: those above zero keep their order, all others come before.
    """
    bits = least.float().view(torch.int32).bitwise_right_shift(16).to(torch.int16)
    bits.masked_fill_(least <= _TINY, torch.iinfo(torch.int16).min)
    values = tile.view(torch.int16)
    lines = (values.amax(1 - axis) >= bits).nonzero()[:, 0]
    reached = values.index_select(axis, lines) >= bits[lines].unsqueeze(1 - axis)
    return lines, reached.any(axis).nonzero()[:, 0]

"""Rough products in bfloat16, which tell the few lines of a piece that matter from the many that do not.

A processor with bfloat16 instructions multiplies about twice as fast in them as in float32. A rough product
that stays below the query's limit by more than the proved error need not be counted; only queries and items
with other products are multiplied in float32. So the figures do not depend on what is computed here.
"""

from collections.abc import Callable, Sequence

import torch

from lrec.compute.device import bfloat16_instructions
from lrec.metrics.blocks import Part, without_own
from lrec.metrics.similarity import rounding

_UNIT = 2.0**-8  # half the distance from 1 to the next bfloat16
_TINY = torch.finfo(torch.float32).tiny
_MANY = 1 / 2  # share of a piece that is left above which all of it is cheaper to compute
_LONGEST = 64  # pieces to go without


def supported(device: torch.device) -> bool:
    """Say whether rough products are faster here, and round as the proof takes them to: with Intel's and AMD's."""
    return device.type == "cpu" and not bfloat16_instructions().isdisjoint(("avx512_bf16", "amx_bf16"))


class Sieve:
    """Rules out most of a piece, and rests for ever longer while that does not pay."""

    def __init__(self, width: int, lengths: torch.Tensor) -> None:
        """Take d and, for every query, its length times that of the longest gallery item."""
        self._error = error(width, lengths)
        self._rest, self._pause = 0, 1

    def sift(
        self, mine: Part, theirs: Part, axes: Sequence[int], lowest: Callable[[torch.Tensor], torch.Tensor]
    ) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        """Say which queries and items of a piece must be looked at; None for the whole piece.

        Args:
            mine: the rows of the piece.
            theirs: its columns.
            axes: 0 for the rows as queries, 1 for the columns.
            lowest: maps query numbers to the least similarity that may count.

        Returns:
            For every axis the places of the queries and of the items in their parts. What lies between
            other queries and items does not count.
        """
        if self._rest:
            self._rest -= 1
            return None
        block = without_own(products(mine.narrow, theirs.narrow), mine, theirs)
        numbers = (mine.numbers, theirs.numbers)
        limits = [lowest(numbers[axis]) - self._error[numbers[axis]] for axis in axes]
        left = [reaching(block, limit, axis) for limit, axis in zip(limits, axes, strict=True)]
        if sum(len(lines) * len(others) for lines, others in left) <= _MANY * block.numel():
            self._pause = 1
            return left
        self._rest, self._pause = self._pause, min(2 * self._pause, _LONGEST)
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
        two rounded vectors move their product by (2 * 2^-8 + 2^-16) of the lengths. To this comes the
        error of summation in float32, in one chunk. These instructions take numbers below float32's
        normal range for zero: the last term.
    """
    moved = (1 + _UNIT) ** 2
    summed = rounding(width, torch.float32, moved * lengths, chunk=width)
    return (moved - 1) * lengths + summed + 8 * width * _TINY


def reaching(block: torch.Tensor, limits: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which lines along an axis hold a value at or above the line's own limit, and where.

    Args:
        block: (n, m) bfloat16, contiguous.
        limits: (n,) for rows, axis 0, or (m,) for columns, axis 1; rounded down to bfloat16.
        axis: 0 or 1.

    Returns:
        Numbers of lines, and of the places where one of these lines holds such a value; int64, ascending.
        All values count as above a limit that is not above zero. The bits of bfloat16 are compared as
        whole numbers, several times as fast: those above zero keep their order, all others come before.
    """
    bits = limits.float().view(torch.int32).bitwise_right_shift(16).to(torch.int16)
    bits.masked_fill_(limits <= _TINY, torch.iinfo(torch.int16).min)
    values = block.view(torch.int16)
    lines = (values.amax(1 - axis) >= bits).nonzero()[:, 0]
    reached = values.index_select(axis, lines) >= bits[lines].unsqueeze(1 - axis)
    return lines, reached.any(axis).nonzero()[:, 0]

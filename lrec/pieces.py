"""Pieces of a block of similarities, small enough to stay in a processor's cache while they are counted."""

import math
from dataclasses import dataclass

import torch

from lrec.blocks import split
from lrec.similarity import Rows

_SIDE = 1024  # rows and columns of a piece on a CPU; elsewhere a block is one piece


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

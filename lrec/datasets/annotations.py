"""Strict reader of text annotations: a missing column or a malformed number is an error, and nothing is skipped.

An error is one line: file, line number, what was found, what was expected, what to do.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from lrec.datasets.dataset import Box
from lrec.io import missing

REMEDY = "correct the file, or unpack the original again (docs/datasets.md)"
MAX_NUMBER = 2**31 - 1


@dataclass(frozen=True)
class Row:
    """One line of an annotation file, split at white space. number: line number, from 1."""

    file: Path
    number: int
    cells: tuple[str, ...]

    def fail(self, found: str, expected: str) -> NoReturn:
        """Raise the ValueError of this line."""
        raise ValueError(f"{self.file}, line {self.number}: found {found}, expected {expected}; {REMEDY}")

    def integer(self, column: int, meaning: str, low: int, high: int = MAX_NUMBER) -> int:
        """Return a cell as an integer from `low` to `high`."""
        text = self.cells[column]
        # int() also accepts 1_000, +1 and digits of other scripts.
        if not (text.isascii() and text.removeprefix("-").isdigit() and low <= int(text[:20]) <= high):
            bound = f"from {low}" + (f" to {high}" if high != MAX_NUMBER else "")
            self.fail(repr(text[:80]), f"{meaning}, an integer {bound}")
        return int(text)

    def decimal(self, column: int, meaning: str) -> float:
        """Return a cell as a finite number."""
        text = self.cells[column]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not abs(value) <= MAX_NUMBER:
            self.fail(repr(text[:80]), f"{meaning}, a number")
        return value

    def box(self, left: int, top: int, right: int, bottom: int) -> Box:
        """Return a box after checking that it is not empty; `decoding.clip` checks that it fits the image."""
        if right <= left or bottom <= top:
            self.fail(f"a box from ({left}, {top}) to ({right}, {bottom})", "its right and bottom beyond left and top")
        return left, top, right, bottom


def lines(file: Path) -> list[str]:
    """Return the lines of a UTF-8 text file; only blank lines at its end are dropped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8 text.
    """
    if not file.is_file():
        found = f"annotation file not found{missing.hint(file)}"
        raise FileNotFoundError(f"{file}: {found}; unpack the original again (docs/datasets.md)")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: found bytes that are not UTF-8 ({error.reason}), expected text; {REMEDY}") from error
    return text.rstrip().split("\n")


def rows(file: Path, columns: Sequence[str], header: bool = False, count: bool = False) -> list[Row]:
    """Read the rows of a table whose columns are separated by white space.

    Args:
        file: the table.
        columns: names of the columns; each row must have one cell for each.
        header: whether a line with the columns' names precedes the rows.
        count: whether the first line, before the header, gives the number of rows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row is blank or has the wrong number of cells, or the header or the count is wrong.
    """
    table = [Row(file, number, tuple(line.split())) for number, line in enumerate(lines(file), start=1)]
    body = table[int(header) + int(count) :]
    if not body:
        raise ValueError(f"{file}: found no rows, expected rows of {' '.join(columns)}; {REMEDY}")
    if header and table[int(count)].cells != tuple(columns):
        table[int(count)].fail(repr(" ".join(table[int(count)].cells)[:80]), f"the header {' '.join(columns)!r}")
    for row in body:
        if len(row.cells) != len(columns):
            row.fail(f"{len(row.cells)} columns", f"{len(columns)}: {' '.join(columns)}")
    if count:
        if len(table[0].cells) != 1 or table[0].integer(0, "the number of rows", 0) != len(body):
            table[0].fail(f"{' '.join(table[0].cells)[:80]!r} as the number of rows", f"{len(body)}, as many as follow")
    return body


def unique(keys: Iterable[tuple[Row, str | int]], meaning: str) -> None:
    """Check that no key occurs twice.

    Args:
        keys: each key with its row.
        meaning: what the key is, for the error.

    Raises:
        ValueError: a key occurs twice; both lines are named.
    """
    seen: dict[str | int, Row] = {}
    for row, key in keys:
        if key in seen:
            first = seen[key]
            place = f"line {first.number}" if first.file == row.file else f"{first.file.name}, line {first.number}"
            row.fail(f"{meaning} {key!r} again, first in {place}", f"each {meaning} once")
        seen[key] = row

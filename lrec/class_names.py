"""Class names for display; files and tables contain the data set's original names."""

import re
import sys

import pandas as pd

from lrec.io.text import boxed

_CODE_POINT = re.compile(r"U\+([0-9A-F]{4,6})")


def readable(name: str) -> str:
    r"""Return a class name for display; every hidden character becomes the replacement character U+FFFD.

    >>> readable("U+0416"), readable("001.Black_footed_Albatross"), readable("")
    ('Ж', 'Black footed Albatross', '')
    >>> readable("U+001B"), readable("a\x1b[31m")
    ('U+001B', 'a\ufffd[31m')
    """
    if point := _CODE_POINT.fullmatch(name):
        number = int(point[1], 16)
        return chr(number) if number <= sys.maxunicode and chr(number).isprintable() else name
    return boxed(re.sub(r"^\d+\.(?=\D)", "", name).replace("_", " "))


def for_spreadsheet(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table for a spreadsheet, in which no text is interpreted as a formula.

    An apostrophe, the usual prefix for text, is added to text that begins with = + - @, a tab or a line end.
    Tables for programs contain the names unchanged.
    """
    text = table.select_dtypes(exclude="number")
    return table.assign(**{name: text[name].map(_as_text) for name in text})


def _as_text(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else value

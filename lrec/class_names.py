"""Class names for display; files and tables keep those of the data set."""

import re
import sys

import pandas as pd

from lrec.io.text import boxed

_CODE_POINT = re.compile(r"U\+([0-9A-F]{4,6})")


def readable(name: str) -> str:
    r"""Return a class name for display, with a replacement character for every hidden character.

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
    """Return a table for a spreadsheet, with no text that would be taken for a formula.

    Text that begins with = + - @, a tab or a line end gets an apostrophe before it, as one would type it.
    Tables that programs read keep names unchanged.
    """
    text = table.select_dtypes(exclude="number")
    return table.assign(**{name: text[name].map(_as_text) for name in text})


def _as_text(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else value

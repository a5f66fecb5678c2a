"""Class names as a reader wants them; files and tables keep the data set's own."""

import re

_CODE_POINT = re.compile(r"U\+([0-9A-F]{4,6})")


def readable(name: str) -> str:
    """Return a class name for the eye.

    >>> readable("U+0416"), readable("001.Black_footed_Albatross"), readable("")
    ('Ж', 'Black footed Albatross', '')
    """
    if point := _CODE_POINT.fullmatch(name):
        return chr(int(point[1], 16))
    return re.sub(r"^\d+\.(?=\D)", "", name).replace("_", " ")

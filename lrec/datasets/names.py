"""The rules for names of classes and images, whether from folders, tables, annotations, queries or Python.

Names are written to tables, pages and terminals, so control characters and other hidden characters are refused. Two
names are the same if they are equivalent in Unicode, however their accents are encoded. Two class names that a reader
could easily confuse are refused.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping

from lrec.io.text import HIDDEN, escaped

MAX_NAME = 1000
# Files and folders that Windows, macOS, Linux and network storage devices create in any folder.
LEFTOVERS = (
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "system volume information", "found.000"),
    *("__macosx", "icon\r", "network trash folder", "temporary items", "lost+found"),
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp", "@sharebin"),
)

POINTER = ".dvc"  # suffix of the file that `dvc add` writes next to data


def is_leftover(name: str) -> bool:
    """Return whether a file or folder is left out of listings: hidden, incomplete, or created by a system or DVC.

    >>> some = "a.png", ".a.png", "._a.png", "Thumbs.db", "__MACOSX", "@eaDir", "lost+found"
    >>> [name for name in some if not is_leftover(name)]
    ['a.png']
    """
    return name.startswith(".") or name.lower() in LEFTOVERS or name.endswith(POINTER)


def composed(name: str) -> str:
    r"""Return a name in Unicode's form NFC, used to compare names, since macOS stores accents as separate characters.

    >>> composed("cafe\u0301") == "caf\u00e9"
    True
    """
    return unicodedata.normalize("NFC", name)


def fault(name: str) -> str | None:
    """Return what is wrong with the name of a class or an image, as found, expected and remedy; None if it is valid."""
    if found := HIDDEN.search(name):
        return (
            f"found the character {escaped(found[0])} in the name {name!r:.120}, expected visible ones; rename the "
            "file or correct the class"
        )
    if len(name) > MAX_NAME or not name:
        return f"found a name of {len(name):,} characters, {name!r:.60}, expected 1 to {MAX_NAME:,}; give it another"
    return None


def require_classes(places: Mapping[str, str]) -> None:
    """Check that each class name is valid and that no two look alike.

    Args:
        places: for each name, where it was found, for the error.

    Raises:
        ValueError: a name is empty, too long, contains hidden characters, begins or ends with a blank, or differs from
            another only in case, in blanks, or in the width of letters.
    """
    for name, place in places.items():
        if name and (problem := fault(name)):
            raise ValueError(f"{place}: {problem}")
    for name, place in places.items():
        if not name or name != name.strip():
            twin = next((other for other in places if other != name and _plain(other) == _plain(name)), None)
            hint = f" (it differs only in {_difference(name, twin)} from {twin!r:.120})" if twin else ""
            raise ValueError(
                f"{place}: found {name!r:.80}, expected a class name without spaces around it{hint}; rename the class"
            )
    first: dict[str, str] = {}
    for name, place in places.items():
        other = first.setdefault(_plain(name), name)
        if composed(other) != composed(name):
            elsewhere = f" ({places[other]})" if places[other] != place else ""
            raise ValueError(
                f"{place}: found the class {name!r:.120}, which differs only in {_difference(name, other)} from "
                f"{other!r:.120}{elsewhere}, expected names that a reader can tell apart; rename one of them"
            )


def _narrow(name: str) -> str:
    """Return a name with full-width and half-width letters replaced by those of normal width."""
    parts = (unicodedata.decomposition(letter).split() for letter in name)
    return "".join(
        chr(int(part[1], 16)) if part and part[0] in ("<wide>", "<narrow>") else letter
        for letter, part in zip(name, parts, strict=True)
    )


# Differences that a reader overlooks, each with a function that removes it from a name.
_OVERLOOKED: dict[str, Callable[[str], str]] = {
    "case": str.lower,
    "blanks at its ends": str.strip,
    "blanks": lambda name: re.sub(r"(?<=\S)\s+(?=\S)", " ", name),
    "characters of no width": lambda name: re.sub("[\u00ad\u200b\u2060\ufeff]", "", name),
    "the width of its letters": _narrow,
}


def _plain(name: str, kept: str = "") -> str:
    """Return a name without the differences that a reader overlooks, except for `kept`."""
    name = composed(name)
    for what, without in _OVERLOOKED.items():
        name = name if what == kept else without(name)
    return name


def _difference(name: str, other: str) -> str:
    """Return how two names with the same plain form differ."""
    return " and ".join(what for what in _OVERLOOKED if _plain(name, what) != _plain(other, what))

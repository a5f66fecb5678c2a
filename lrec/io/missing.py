"""Hints for missing files: a similar name, the same name one folder deeper, or the reason why a path is not found.

A path that was typed, or that annotations list, is usually almost right. The hint says what differs.
"""

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

PARAMS = Path("params.yaml")
MANY = 5000  # entries of a folder that are compared letter by letter


def hint(path: Path) -> str:
    """Return a hint for a missing path, to be appended to an error message; empty if nothing similar exists.

    >>> hint(Path("/dev/Null"))
    " ('null' is there, which differs only in case)"
    """
    try:
        found = _nearest(path)
    except OSError:
        return ""
    return f" ({found})" if found else ""


def require_project(settings: Path = PARAMS) -> None:
    """Require that the current folder is the repository's root, before anything is written there.

    Raises:
        FileNotFoundError: there is no params.yaml; the message names the parent folder that has one, if any.
    """
    if not settings.is_file():
        folders = settings.absolute().parent.parents
        outer = next((folder for folder in folders if (folder / settings.name).is_file()), None)
        where = f", {outer}" if outer else hint(settings)
        raise FileNotFoundError(
            f"{settings}: not found in {settings.absolute().parent}; run from the repository's root{where}"
        )


def near(name: str, there: Iterable[str]) -> str:
    """Return which existing name is probably meant, and how it differs; empty if none is similar.

    >>> near("cat.jpg", ["dog.jpg", "cat.jpeg"])
    "'cat.jpeg' is there, which differs only in its suffix"
    """
    names = sorted(there)
    for how, plain in (("in the Unicode form of its accents", _composed), ("in case", _lower), ("in blanks", _bare)):
        for other in names:
            if other != name and plain(other) == plain(name):
                return f"{other!r:.120} is there, which differs only {how}"
    stem = name.partition(".")[0]
    for other in names:
        if stem and _lower(other.partition(".")[0]) == _lower(stem) and other != name:
            case = "" if other.partition(".")[0] == stem else "case and "
            return f"{other!r:.120} is there, which differs only in {case}its suffix"
    if len(name) < 4 or "/" in name:
        return ""
    # Names with different numbers are different files.
    stems = {os.path.splitext(other)[0]: other for other in names[:MANY]}
    own = os.path.splitext(name)[0]
    numbered = [stem for stem in stems if re.findall(r"\d+", stem) == re.findall(r"\d+", own)]
    close = difflib.get_close_matches(own, numbered, n=1, cutoff=0.75)
    return f"{stems[close[0]]!r:.120} is there" if close else ""


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _lower(name: str) -> str:
    return _composed(name).lower()


def _bare(name: str) -> str:
    """Remove blanks, "_" and "-", and the "(1)" of a second download."""
    return "".join(part for part in _lower(name).removesuffix("(1)") if part not in " _-")


def _nearest(path: Path) -> str:
    """Describe what is found in place of the first missing part of a path."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"it is a link to {os.readlink(path)}, which is not there"
    if os.path.isdir(path):
        return "it is a folder"
    whole = Path(os.path.abspath(path))
    parent = next(folder for folder in whole.parents if _exists(folder))
    name = whole.relative_to(parent).parts[0]
    if not os.path.isdir(parent):
        return f"{parent} is a file, not a folder"
    try:
        there = os.listdir(parent)
    except PermissionError:
        return f"no permission to look into {parent}"
    if name in there and os.path.islink(parent / name):
        return f"{parent / name} is a link to {os.readlink(parent / name)}, which is not there"
    if name in there:
        return f"no permission to look into {parent if parent / name == whole else parent / name}"
    place = "" if parent / name == whole else f"no folder {name!r:.120} in {parent}, but "
    if found := near(name, there) or _deeper(parent, there, whole):
        return f"{place}{found}"
    return f"there is no folder {parent / name}" if place else "" if there else f"{parent} is empty"


def _exists(path: Path) -> bool:
    try:
        os.stat(path)
    except OSError:  # it does not exist, or permission is missing
        return False
    return True


def _deeper(parent: Path, there: list[str], whole: Path) -> str:
    """Look for the rest of the path one folder deeper or one folder higher."""
    rest = whole.relative_to(parent)
    for name in sorted(there)[:MANY]:
        if (parent / name / rest).exists():
            return f"{parent / name / rest} is there, one folder deeper"
    if len(rest.parts) > 1 and (parent / Path(*rest.parts[1:])).exists():
        return f"{parent / Path(*rest.parts[1:])} is there, one folder higher"
    return ""

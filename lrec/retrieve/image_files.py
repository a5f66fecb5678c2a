"""Finds the image files that a name stands for: a file, a folder with its subfolders, or a glob."""

import functools
import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrec.datasets import decoding, disk, names
from lrec.io import missing


@dataclass(frozen=True)
class Named:
    """The files that a name stands for.

    Attributes:
        files: the files, in order; empty if nothing has this name.
        several: whether the name is a folder or a glob.
        note: a line about what a folder contains besides images; "" if there is nothing else.
    """

    files: list[Path]
    several: bool = False
    note: str = ""


def find(text: str) -> Named:
    """Return the files that a name stands for.

    Raises:
        FileNotFoundError: a folder contains no image.
    """
    path = Path(text)
    if path.is_file():
        return Named([path])
    if not path.is_dir():
        return Named(_matches(text), several=True)
    files, strange = disk.files_below(path)
    found = [file for file in files if decoding.is_image(file.name)]
    others = _passed_over(path, "for their format", [file for file in files if not decoding.is_image(file.name)])
    others += _passed_over(path, "as links to folders, or as no files", strange)
    if not found:
        raise FileNotFoundError(
            f"{text}: found no image in this folder{others}, expected {' '.join(decoding.SUFFIXES)}"
        )
    return Named(found, True, f"{text}: {len(found):,} image{'s' * (len(found) != 1)}{others}" if others else "")


def find_all(given: str | Path | Sequence[str | Path]) -> tuple[list[Path], list[str]]:
    """Return the files that one or several names stand for, and the notes about them.

    A file is returned once, however its folder is named; links to it in other places are files of their own.

    Raises:
        FileNotFoundError: a name stands for no file.
    """
    files, notes = [], []
    for text in map(str, [given] if isinstance(given, str | Path) else given):
        found = find(text)
        if not found.files:
            raise FileNotFoundError(f"{text}: found no such file, folder or glob{missing.hint(Path(text))}")
        files += found.files
        notes += [found.note] if found.note else []
    folder, once = functools.cache(os.path.realpath), {}
    for file in files:
        once.setdefault((folder(file.parent), file.name), file)
    return list(once.values()), notes


def left_out(files: Sequence[Any], unread: Mapping[int, Exception]) -> str:
    """Return a line about the files that could not be read, given by position; "" if all were read."""
    if not unread:
        return ""
    unreadable = [str(files[place]) for place in unread]
    reason = (
        str(next(iter(unread.values()))).removeprefix(f"{unreadable[0]}: ").removeprefix("not readable as an image: ")
    )
    reason = reason.removesuffix("; replace it").partition(", expected")[0]
    reason = f"{'the first: ' if len(unreadable) > 1 else ''}{reason}"
    count = f"{len(unreadable):,} of {len(files):,} file{'s' * (len(files) != 1)}"
    return f"left out {count} that cannot be read: {first(unreadable)} ({reason})"


def first(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, separated by commas, and how many more there are.

    >>> first(["a", "b"]), first(["a", "b"], most=1)
    ('a, b', 'a and 1 more')
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _passed_over(folder: Path, reason: str, found: Sequence[Path]) -> str:
    """Return a clause about what is passed over in a folder; "" if nothing is."""
    names = [path.relative_to(folder).as_posix() for path in found]
    return f", passed over {reason}: {first(names)}" if names else ""


def _matches(pattern: str) -> list[Path]:
    """Return the files that match a glob, except leftovers that match only by its wildcards."""
    written = set(Path(pattern).parts)
    found = [Path(name) for name in glob.glob(pattern, recursive=True)]
    return sorted(p for p in found if p.is_file() and not any(map(names.is_leftover, set(p.parts) - written)))

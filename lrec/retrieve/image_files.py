"""Finds the image files that a name stands for: a file, a folder with its subfolders, or a glob."""

import glob
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
        note: a line about files of a folder that are ignored because of their format; "" if there are none.
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
    found = disk.images_below(path)
    if not found:
        raise FileNotFoundError(
            f"{text}: found no image in this folder{_passed_over(path)}, expected {' '.join(decoding.SUFFIXES)}"
        )
    others = _passed_over(path)
    return Named(found, True, f"{text}: {len(found):,} image{'s' * (len(found) != 1)}{others}" if others else "")


def find_all(given: str | Path | Sequence[str | Path]) -> tuple[list[Path], list[str]]:
    """Return the files that one or several names stand for, each file once, and the notes about them.

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
    return list(dict.fromkeys(files)), notes


def left_out(files: Sequence[Any], unread: Mapping[int, Exception]) -> str:
    """Return a line about the files that could not be read, given by position; "" if all were read."""
    if not unread:
        return ""
    unreadable = [str(files[place]) for place in unread]
    reason = (
        str(next(iter(unread.values()))).removeprefix(f"{unreadable[0]}: ").removeprefix("not readable as an image: ")
    )
    reason = f"{'the first: ' if len(unreadable) > 1 else ''}{reason.removesuffix('; replace it')}"
    count = f"{len(unreadable):,} of {len(files):,} file{'s' * (len(files) != 1)}"
    return f"left out {count} that cannot be read: {first(unreadable)} ({reason})"


def first(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, separated by commas, and how many more there are.

    >>> first(["a", "b"]), first(["a", "b"], most=1)
    ('a, b', 'a and 1 more')
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _passed_over(folder: Path) -> str:
    """Return a clause about the files of a folder whose suffix is not that of an image."""
    found = [path for path in disk.files_below(folder) if not decoding.is_image(path.name)]
    others = [path.relative_to(folder).as_posix() for path in found]
    return f", passed over for their format: {first(others)}" if others else ""


def _matches(pattern: str) -> list[Path]:
    """Return the files that match a glob, except leftovers that match only by its wildcards."""
    written = set(Path(pattern).parts)
    found = [Path(name) for name in glob.glob(pattern, recursive=True)]
    return sorted(p for p in found if p.is_file() and not any(map(names.is_leftover, set(p.parts) - written)))

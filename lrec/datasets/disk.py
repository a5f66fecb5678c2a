"""Data sets as folders on disk: finding one, keeping paths inside it, noticing files that are missing."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from lrec.datasets import picture
from lrec.datasets.dataset import Dataset, Sample
from lrec.io.text import HIDDEN, escaped

MAX_NAME = 1000
DEPTH = 2  # levels of nesting that archives and mirrors add


def locate(raw_root: Path, folder: str, aliases: Sequence[str]) -> Path:
    """Return the folder of a data set: `folder` inside the raw root, else the first alias that is there.

    Raises:
        FileNotFoundError: none of them is there.
        ValueError: `folder` is absolute or leaves the raw root.
    """
    names = [inside(folder, f"folder in params.yaml, {folder!r}"), *(name for name in aliases if name != folder)]
    for name in names:
        if (raw_root / name).is_dir():
            return raw_root / name
    others = f" (nor {', '.join(names[1:])})" if names[1:] else ""
    raise FileNotFoundError(
        f"{raw_root}: no folder {names[0]}{others} in it; data_root in params.yaml or the environment variable "
        "LREC_DATA sets where data sets are looked for, docs/datasets.md says where to get them"
    )


def descend(root: Path, markers: Sequence[str]) -> Path:
    """Return the folder that holds one of the marker files: `root`, or one nested in it, shallowest first.

    Args:
        root: where to begin.
        markers: paths relative to the folder that is looked for.

    Raises:
        FileNotFoundError: no marker down to `DEPTH` levels.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; docs/datasets.md says where to get the data sets")
    level = [root]
    for _ in range(DEPTH + 1):
        for candidate in level:
            if any((candidate / marker).is_file() for marker in markers):
                return candidate
        level = [child for candidate in level for child in _subfolders(candidate)]
    raise FileNotFoundError(
        f"{root}: found none of {', '.join(markers)} in it or {DEPTH} levels below, expected one of them; "
        "unpack the annotations there (docs/datasets.md)"
    )


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=False)]
    return [folder / name for name in sorted(names)]


def inside(path: str, where: str) -> str:
    """Return a path of an annotation in its plain form (forward slashes, no "." parts).

    Args:
        path: as the annotation has it.
        where: file and line, for the error.

    Raises:
        ValueError: empty, absolute, with "..", a backslash or a hidden character.
    """
    parts = PurePosixPath(path).parts
    hostile = (
        path.startswith("/") or ".." in parts or re.match("[A-Za-z]:", path) or "\\" in path or HIDDEN.search(path)
    )
    if hostile or not parts:
        raise ValueError(
            f"{where}: found the path {path[:120]!r}, expected one that stays inside the data set's folder, "
            "relative and with forward slashes; correct the file"
        )
    return "/".join(parts)


def missing(root: Path, paths: Iterable[str]) -> list[str]:
    """Return the paths that are not files, in their order; each folder is listed once.

    Args:
        root: the data set's folder (it may itself be a symbolic link).
        paths: relative to it, as `inside` returns them.

    Raises:
        ValueError: a symbolic link on the way leads out of the folder.
    """
    wanted = list(paths)
    home = os.path.realpath(root)
    present: dict[str, set[str]] = {}
    for parent in dict.fromkeys(path.rpartition("/")[0] for path in wanted):
        present[parent] = _files(root, home, parent)
    return [path for path in wanted if path.rpartition("/")[2] not in present[path.rpartition("/")[0]]]


def _files(root: Path, home: str, parent: str) -> set[str]:
    """Names of the files of one folder; links that stay inside the data set count."""
    folder = root / parent
    if not os.path.isdir(folder):  # unlike Path.is_dir, no error where a name is longer than the system takes
        return set()
    _refuse_outside(folder, home)
    names = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file():
                names.add(entry.name)
                if entry.is_symlink():
                    _refuse_outside(Path(entry.path), home)
    return names


def _refuse_outside(path: Path, home: str) -> None:
    real = os.path.realpath(path)
    if os.path.commonpath([real, home]) != home:
        raise ValueError(
            f"{path}: a symbolic link to {real}, expected it to stay inside {home}; "
            "copy the files, or make the data set's whole folder the link"
        )


def assemble(
    root: Path,
    found: str,
    samples: list[Sample],
    official: dict[str, tuple[int, int]] | None,
    list_missing: bool,
) -> Dataset:
    """Check a reader's samples against the disk and return them as a `Dataset`.

    Args:
        root: folder that sample paths start from.
        found: one line on the layout.
        samples: all images of the annotations.
        official: (images, classes) per split, where known.
        list_missing: return missing files in `Dataset.missing` instead of raising.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: a class is in the training split and in another, a link leaves the folder, or a name holds
            hidden characters or is too long.
    """
    _check_names(root, samples)
    shared = _classes(samples, train=True) & _classes(samples, train=False)
    if shared:
        raise ValueError(
            f"{root}: found {len(shared)} classes in train and in another split, the first is {min(shared)!r}, "
            "expected disjoint classes; retrieval is measured on classes that training has not seen"
        )
    absent = missing(root, (sample.path for sample in samples))
    if absent and not list_missing:
        raise FileNotFoundError(
            f"{root}: {len(absent):,} of {len(samples):,} images are missing, the first is {absent[0]}; "
            "unpack the images again, `python -m lrec.datasets check` with the variant's name lists them all"
        )
    return Dataset(root, found, samples, official, lambda sample: picture.decode(root / sample.path), tuple(absent))


def _check_names(root: Path, samples: list[Sample]) -> None:
    """Names go into tables, pages and terminals: none may hold what would act there."""
    for name in dict.fromkeys(name for sample in samples for name in (sample.class_name, sample.path)):
        found = HIDDEN.search(name)
        if found:
            raise ValueError(
                f"{root}: found the character {escaped(found[0])} in the name {name!r:.120}, expected visible ones; "
                "rename the file or correct the class"
            )
        if len(name) > MAX_NAME or not name:
            raise ValueError(
                f"{root}: found a name of {len(name):,} characters, {name!r:.60}, expected 1 to {MAX_NAME:,}; "
                "give it another"
            )


def _classes(samples: list[Sample], train: bool) -> set[str]:
    return {sample.class_name for sample in samples if (sample.split == "train") == train}

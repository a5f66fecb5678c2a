"""Data sets on disk: finding their folders, listing files, refusing paths that lead outside, finding missing files."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from lrec.datasets import decoding, links, names
from lrec.datasets.dataset import Dataset, Sample
from lrec.io import missing
from lrec.io.splits import TRAIN
from lrec.io.text import HIDDEN

DEPTH = 2  # levels of nesting that archives and mirrors add
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
MANY_FOLDERS = 200  # per level, searched for missing files


def locations(raw_root: Path, folder: str, aliases: Sequence[str]) -> list[Path]:
    """Return the existing folders of a data set: `folder` inside the raw root, then its aliases.

    Raises:
        ValueError: `folder` is absolute or leaves the raw root.
    """
    own = inside(folder, f"folder in params.yaml, {folder!r}")
    found = [_on_disk(raw_root, name) for name in (own, *(name for name in aliases if name != folder))]
    return [raw_root / name for name in found if name is not None]


def locate(raw_root: Path, folder: str, aliases: Sequence[str]) -> Path:
    """Return the folder of a data set, the first of its `locations`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: `folder` is absolute or leaves the raw root.
    """
    if there := locations(raw_root, folder, aliases):
        return there[0]
    others = ", ".join(name for name in aliases if name != folder)
    raise FileNotFoundError(
        f"{raw_root}: no folder {folder}{f' (nor {others})' if others else ''} in it{missing.hint(raw_root / folder)}; "
        "data_root in params.yaml or the environment variable LREC_DATA sets where data sets are looked for, "
        "docs/datasets.md says where to get them"
    )


def listed(folder: Path) -> tuple[list[str], list[str]]:
    """Return the sorted names of a folder's subfolders and of its other entries, without leftovers."""
    with os.scandir(folder) as scan:
        entries = sorted((entry.name, entry.is_dir()) for entry in scan if not names.is_leftover(entry.name))
    return [name for name, is_dir in entries if is_dir], [name for name, is_dir in entries if not is_dir]


def files_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files of a folder and its subfolders, and what is neither: links to folders, broken links, pipes."""
    folders, files = listed(folder)
    found, others = [], []
    for name in files:
        (found if (folder / name).is_file() else others).append(folder / name)
    for name in folders:
        if (folder / name).is_symlink():  # it could lead back to this folder
            others.append(folder / name)
            continue
        below = files_below(folder / name)
        found += below[0]
        others += below[1]
    return sorted(found), sorted(others)


def descend(root: Path, is_set: Callable[[Path], bool]) -> Path | None:
    """Return the folder of a data set: `root`, or one nested in it down to `DEPTH` levels, shallowest first.

    Args:
        root: where to begin.
        is_set: returns whether a folder is the data set's.

    Returns:
        The folder, the first by name if a level has several; None if there is none.

    Raises:
        FileNotFoundError: there is no folder `root`.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; docs/datasets.md says where to get the data sets")
    level = [root]
    for _ in range(DEPTH + 1):
        for candidate in level:
            if is_set(candidate):
                return candidate
        children = [candidate / name for candidate in level for name in listed(candidate)[0]]
        level = [child for child in children if not child.is_symlink()]
    return None


def descend_to(root: Path, markers: Sequence[str]) -> Path:
    """Return the folder that holds one of the marker files, see `descend`.

    Args:
        root: where to begin.
        markers: paths relative to the data set's folder.

    Raises:
        FileNotFoundError: no marker was found down to `DEPTH` levels.
    """
    found = descend(root, lambda folder: any((folder / marker).is_file() for marker in markers))
    if found is None:
        raise FileNotFoundError(
            f"{root}: found none of {', '.join(markers)} in it or {DEPTH} levels below{_instead(root, markers)}, "
            "expected one of them; unpack the annotations there (docs/datasets.md)"
        )
    return found


def _instead(root: Path, markers: Sequence[str]) -> str:
    """Return a clause on what was found instead of the markers: one elsewhere, a misspelt one, or an archive."""
    wanted = sorted({marker.rpartition("/")[2] for marker in markers})
    level, archive = [root], ""
    for depth in range(DEPTH + 3):
        for folder in level:
            files = listed(folder)[1]
            for name in wanted:
                if name in files:
                    return f" ({folder / name} is there, {'deeper' if depth > DEPTH else 'in another folder'})"
                if found := missing.near(name, files):
                    return f" (in {folder} {found})"
            archive = archive or not_unpacked(folder)
        level = [folder / name for folder in level for name in listed(folder)[0]][:MANY_FOLDERS]
    return archive


def not_unpacked(folder: Path) -> str:
    """Return a clause that names an archive in a folder; empty if there is none."""
    archives = [name for name in listed(folder)[1] if name.lower().endswith(ARCHIVES)] if folder.is_dir() else []
    return f" ({folder / archives[0]} is there, not unpacked)" if archives else ""


def inside(path: str, where: str) -> str:
    """Return a path from an annotation in normal form (forward slashes, no "." parts).

    Args:
        path: path in the annotation.
        where: file and line, for the error.

    Raises:
        ValueError: the path is empty or absolute, or has "..", a backslash or a hidden character.
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


def present(root: Path, paths: Iterable[str]) -> dict[str, str]:
    """Return those paths that are files, each with its spelling on disk; each folder is listed once.

    Args:
        root: the data set's folder (it may itself be a symbolic link).
        paths: relative to the root, as `inside` returns them. Accents may be encoded differently from those on disk.

    Raises:
        ValueError: a symbolic link in a path leads outside the folder.
    """
    home = os.path.realpath(root)
    folders: dict[str, dict[str, str]] = {}
    found = {}
    for path in paths:
        parent, _, name = path.rpartition("/")
        if parent not in folders:
            folders[parent] = _files(root, home, parent)
        there = folders[parent].get(name) or folders[parent].get(names.composed(name))
        if there is not None:
            found[path] = there
    return found


def _files(root: Path, home: str, parent: str) -> dict[str, str]:
    """Return the paths of a folder's files by name, as on disk and composed; includes links inside the data set."""
    folder = _on_disk(root, parent)
    if folder is None:
        return {}
    links.require_inside(root / folder, home)
    found = {}
    with os.scandir(root / folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_file():
                if entry.is_symlink():
                    links.require_inside(Path(entry.path), home)
                found[entry.name] = f"{folder}/{entry.name}".lstrip("/")
    return {names.composed(name): path for name, path in found.items()} | found


def _on_disk(root: Path, path: str) -> str | None:
    """Return a folder's path with its spelling on disk; None if there is no such folder."""
    # Unlike Path.is_dir, this raises no error for a name that is too long for the system.
    if os.path.isdir(root / path):
        return path
    if path.isascii():
        return None
    place = ""
    for part in path.split("/"):
        folders = listed(root / place)[0] if os.path.isdir(root / place) else []
        same = [name for name in folders if names.composed(name) == names.composed(part)]
        if not same:
            return None
        place = f"{place}/{same[0]}".lstrip("/")
    return place


def assemble(
    root: Path,
    found: str,
    samples: list[Sample],
    official: dict[str, tuple[int, int]] | None,
    list_missing: bool,
) -> Dataset:
    """Check a reader's samples against the disk and return them as a `Dataset`.

    Args:
        root: folder that sample paths are relative to.
        found: one line on the layout.
        samples: all images of the annotations.
        official: (images, classes) per split, None if not known.
        list_missing: return missing files in `Dataset.missing` instead of raising.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: a class is in the training split and in another, a link leads outside the folder, or a name breaks
            the rules of `names`.
    """
    names.require_classes(dict.fromkeys((sample.class_name for sample in samples), str(root)))
    for sample in samples:
        if problem := names.fault(sample.path):
            raise ValueError(f"{root}: {problem}")
    samples = [replace(sample, class_name=names.composed(sample.class_name)) for sample in samples]
    shared = _classes(samples, train=True) & _classes(samples, train=False)
    if shared:
        raise ValueError(
            f"{root}: found {len(shared)} classes in train and in another split, the first is {min(shared)!r}, "
            "expected disjoint classes; retrieval is measured on classes that training has not seen"
        )
    there = present(root, (sample.path for sample in samples))
    absent = [sample.path for sample in samples if sample.path not in there]
    if absent and not list_missing:
        raise FileNotFoundError(
            f"{root}: {len(absent):,} of {len(samples):,} images are missing, the first is {absent[0]}"
            f"{_cause(root, absent[0])}; unpack the images again, "
            "`python -m lrec.datasets check` with the variant's name lists them all"
        )
    samples = [replace(sample, path=there.get(sample.path, sample.path)) for sample in samples]
    return Dataset(root, found, samples, official, lambda sample: decoding.decode(root / sample.path), tuple(absent))


def _cause(root: Path, path: str) -> str:
    """Return a clause on what was found instead of a missing image."""
    whole = (root / path.partition("/")[0]).exists()
    return missing.hint(root / path) if whole else not_unpacked(root) or missing.hint(root / path)


def _classes(samples: list[Sample], train: bool) -> set[str]:
    return {sample.class_name for sample in samples if (sample.split == TRAIN) == train}

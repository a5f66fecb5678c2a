"""A user's own data set: one folder per class, or a table of paths.

Folders: train/<class>/<image> and test/<class>/<image>, or query/ and gallery/ in place of test/.
Table: a CSV with the columns path,class,split and, where there are boxes, x1,y1,x2,y2.
"""

import csv
import os
from pathlib import Path

from lrec.datasets import annotations, decoding, disk, names
from lrec.datasets.annotations import Row
from lrec.datasets.dataset import Dataset, Sample
from lrec.io import missing
from lrec.io.splits import SPLITS, are_whole

TABLE = "images.csv"
COLUMNS = ("path", "class", "split")
BOX_COLUMNS = ("x1", "y1", "x2", "y2")
# Files that may be next to the splits.
DOCUMENTS = ("readme", "license", "licence", "copying", "citation", "notice")
DOCUMENT_SUFFIXES = ("", ".txt", ".md", ".cff", ".pdf")


def read(root: Path, list_missing: bool = False) -> Dataset:
    """Read the set; the training classes must not be in other splits.

    images.csv is read if it exists, otherwise the folders, otherwise the only CSV at the root. Boxes are counted from
    0; x2 and y2 are exclusive. Hidden files, Thumbs.db, desktop.ini and __MACOSX are ignored, as are README, LICENSE
    and similar files at the root; any other file that is not an image is an error.

    Args:
        root: the data set's folder, or one that contains only the data set's folder.
        list_missing: return missing images of a table in `Dataset.missing` instead of raising.

    Raises:
        FileNotFoundError: there is no such folder, it has no splits, or images are missing.
        ValueError: classes overlap, a class is empty, a file is not an image, or a row is malformed.
    """
    root = _descend(root)
    folders, files = disk.listed(root)
    if table := _table(folders, files):
        samples, found = _read_table(root / table), f"table {table}"
    else:
        _check_root(root, folders, files)
        there = [name for name in SPLITS if name in folders]
        samples = [sample for split in there for sample in _read_split(root, split)]
        found = f"one folder per class under {', '.join(there)}"
    _check_splits(root, {sample.split for sample in samples})
    return disk.assemble(root, found, samples, None, list_missing)


def _descend(root: Path) -> Path:
    """Return the data set's folder: `root`, or one nested in it with no other data next to it."""
    found = disk.descend(root, _is_set) or root
    for outer in list(found.parents)[: len(found.parts) - len(root.parts)]:
        folders, files = disk.listed(outer)
        if len(folders) > 1 or not all(map(_is_document, files)):
            return root
    return found


def _is_set(folder: Path) -> bool:
    folders, files = disk.listed(folder)
    return _table(folders, files) is not None or are_whole(name for name in folders if name in SPLITS)


def _table(folders: list[str], files: list[str]) -> str | None:
    """Return the name of the table that lists the images; None if the set is read from folders."""
    tables = [name for name in files if name.lower().endswith(".csv")]
    only = tables[0] if len(tables) == 1 and not set(SPLITS).intersection(folders) else None
    return TABLE if TABLE in files else only


def _check_root(root: Path, folders: list[str], files: list[str]) -> None:
    strange = [name for name in folders if name not in SPLITS] + [name for name in files if not _is_document(name)]
    if strange:
        hints = (missing.near(name, SPLITS) for name in strange if name in folders)
        hint = next((f" (the split {text.replace(' is there, which', '')})" for text in hints if text), "")
        below = (disk.descend(root / name, _is_set) for name in strange if name in folders)
        deeper = next(filter(None, below), None)
        hint = hint or (f" ({deeper} has the splits, with other things around it)" if deeper else "")
        hint = hint or disk.not_unpacked(root)
        _refuse(root, strange, f"{', '.join(SPLITS)} or one table {TABLE}{hint}")


def _is_document(name: str) -> bool:
    stem, suffix = os.path.splitext(name.lower())
    return stem in DOCUMENTS and suffix in DOCUMENT_SUFFIXES


def _check_splits(root: Path, splits: set[str]) -> None:
    if not are_whole(splits):
        listed = ", ".join(split for split in SPLITS if split in splits) or "none"
        kind = ValueError if splits else FileNotFoundError
        raise kind(
            f"{root}: found the splits {listed}, expected train and test, or train, query and gallery; correct the "
            "folders or the table, see docs/own-photos.md"
        )


def _read_split(root: Path, split: str) -> list[Sample]:
    classes, strays = disk.listed(root / split)
    if strays:
        _refuse(root / split, strays, "one folder per class")
    samples = []
    for name in classes:
        folders, files = disk.listed(root / split / name)
        strange = folders + [file for file in files if not decoding.is_image(file)]
        if strange:
            if folders and classes == [name]:
                raise ValueError(
                    f"{root / split / name}: found the folders of the classes, {folders[0]!r:.80} and so on, one "
                    f"folder deeper than expected; move them up into {root / split}"
                )
            _refuse(root / split / name, strange, f"images ({' '.join(decoding.SUFFIXES)})")
        if not files:
            raise ValueError(f"{root / split / name}: found no images, expected at least one; remove the folder")
        samples += [Sample(disk.inside(f"{split}/{name}/{file}", str(root)), name, split) for file in files]
    return samples


def _refuse(folder: Path, strange: list[str], expected: str) -> None:
    rest = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
    shown = ", ".join(repr(name) for name in strange[:3])
    raise ValueError(f"{folder}: found {shown}{rest}, expected {expected}; move what does not belong there")


def _read_table(file: Path) -> list[Sample]:
    text = "\n".join(annotations.lines(file)) + "\n"
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        table = [Row(file, reader.line_num, tuple(cells)) for cells in reader]
    except csv.Error as error:
        found = f"found no valid CSV ({error})"
        raise ValueError(f"{file}, line {reader.line_num}: {found}; {annotations.REMEDY}") from error
    header, *rows = table or [Row(file, 1, ())]
    if header.cells not in (COLUMNS, COLUMNS + BOX_COLUMNS):
        header.fail(repr(",".join(header.cells)[:80]), f"the header {','.join(COLUMNS)!r}, or with ,x1,y1,x2,y2 after")
    samples = [_sample(row, header.cells) for row in rows]
    paths = ((row, names.composed(sample.path)) for row, sample in zip(rows, samples, strict=True))
    annotations.unique(paths, "path")
    lines: dict[str, str] = {}
    for row, sample in zip(rows, samples, strict=True):
        lines.setdefault(sample.class_name, f"{row.file}, line {row.number}")
    names.require_classes(lines)  # `disk.assemble` checks again, but cannot name the lines
    return samples


def _sample(row: Row, columns: tuple[str, ...]) -> Sample:
    if len(row.cells) != len(columns):
        row.fail(f"{len(row.cells)} columns", f"{len(columns)}: {','.join(columns)}")
    path = disk.inside(row.cells[0], f"{row.file}, line {row.number}")
    if not decoding.is_image(path):
        row.fail(repr(path[:80]), f"an image ({' '.join(decoding.SUFFIXES)})")
    if any(map(names.is_leftover, path.split("/"))):
        row.fail(repr(path[:80]), "an image that is neither hidden nor left by a system")
    class_name, split = row.cells[1:3]
    if split not in SPLITS:
        row.fail(repr(split[:80]), f"a split, one of {', '.join(SPLITS)}")
    box = row.box(*(row.integer(c, columns[c], 0) for c in range(3, 7))) if len(columns) > 3 else None
    return Sample(path, class_name, split, box)

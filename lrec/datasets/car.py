"""CARS196: classes 1-98 for training, 99-196 for testing; the official train/test field is not used.

Two layouts are read: cars_annos.mat, with paths that begin with car_ims/ (or cars_train/ and cars_test/),
and the folders cars_train/ and cars_test/, with the annotations of the development kit.

Source: Krause et al., 3D Object Representations for Fine-Grained Categorization, 3dRR 2013.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lrec.datasets import disk, mat
from lrec.datasets.dataset import Dataset, Sample
from lrec.io import splits

FOLDERS = ("CARS196", "cars196", "Cars196", "cars", "stanford_cars", "stanford-cars-dataset", "StanfordCars")
OFFICIAL = {splits.TRAIN: (8054, 98), splits.TEST: (8131, 98)}
CLASSES, TRAIN_CLASSES = 196, 98
ALL = "cars_annos.mat"
TRAIN = ("cars_train_annos.mat",)
# Browsers give a second download the second name; some mirrors have it.
TEST = ("cars_test_annos_withlabels.mat", "cars_test_annos_withlabels (1).mat")
HALVES = (("cars_train", TRAIN), ("cars_test", TEST))
META = "cars_meta.mat"
PLACES = ("", "devkit/", "car_devkit/devkit/", "car_devkit/", "cars_devkit/devkit/", "cars_devkit/")
CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
REMEDY = "fetch the file again (docs/datasets.md has its md5)"


@dataclass(frozen=True)
class Annotation:
    """One entry of a .mat file. number: from 1. corners: x1, y1, x2, y2, counted from 1, inclusive."""

    file: Path
    number: int
    path: str
    class_id: int
    corners: tuple[int, int, int, int]

    def fail(self, found: str, expected: str) -> NoReturn:
        """Raise the ValueError of this entry."""
        raise ValueError(f"{self.file}, annotation {self.number}: found {found}, expected {expected}; {REMEDY}")


def read(root: Path, list_missing: bool = False) -> Dataset:
    """Read the set from the folder that holds its annotations, or one nested in it.

    cars_annos.mat is preferred if the image folders in its paths exist; otherwise the annotations of cars_train and
    cars_test are read, or those of only one if the other is missing. Corners are counted from 1 and inclusive; a
    sample's box is counted from 0, and its right and bottom are exclusive.

    Args:
        root: the data set's folder.
        list_missing: return missing images in `Dataset.missing` instead of raising.

    Raises:
        FileNotFoundError: annotations or images are missing.
        ValueError: a .mat file is malformed; the message names the file and the number of the annotation.
    """
    root = disk.descend_to(root, [ALL, *(place + name for place in PLACES for name in TRAIN + TEST)])
    train, test = _find(root, TRAIN), _find(root, TEST)
    if (root / ALL).is_file():
        entries, names = _load(root / ALL, "relative_im_path")
        tops = sorted({entry.path.partition("/")[0] for entry in entries})
        if not (train or test) or all((root / top).is_dir() for top in tops):
            _require_its_images(root, tops)
            return _assemble(root, f"{ALL}, images under {', '.join(tops[:3])}", entries, names, list_missing)
    for half, annotations, (name, *_) in (("cars_train", train, TRAIN), ("cars_test", test, TEST)):
        if not annotations and (root / half).is_dir():
            raise FileNotFoundError(
                f"{root}: no {name} in it or in devkit/, expected the annotations of {half} with their labels "
                f"(cars_test_annos.mat has none), or no folder {half}, for half of the set; docs/datasets.md"
            )
    meta = _find(root, (META,))
    names = _class_names(mat.read(meta), meta) if meta else None
    entries = _load(train, "fname", "cars_train/")[0] if train else []
    entries += _load(test, "fname", "cars_test/")[0] if test else []
    found = f"{TRAIN[0]} and {TEST[0]}" if train and test else f"{TRAIN[0] if train else TEST[0]} alone"
    return _assemble(root, found, entries, names, list_missing)


def _require_its_images(root: Path, tops: list[str]) -> None:
    """Refuse cars_annos.mat with the image folders of the other layout, whose images are numbered differently."""
    others = [half for half, _ in HALVES if half not in tops and (root / half).is_dir()]
    if others and not any((root / top).is_dir() for top in tops):
        needed = " and ".join(names[0] for half, names in HALVES if half in others)
        raise FileNotFoundError(
            f"{root}: {ALL} lists the images of {', '.join(tops[:3])}/, which is not there; the images of "
            f"{' and '.join(others)} are numbered otherwise and have annotations of their own: add {needed}, or the "
            f"folder {tops[0]} (car_ims.tgz); docs/datasets.md"
        )


def _find(root: Path, names: tuple[str, ...]) -> Path | None:
    files = (root / (place + name) for place in PLACES for name in names)
    return next((file for file in files if file.is_file()), None)


def _load(file: Path, path_field: str, prefix: str = "") -> tuple[list[Annotation], list[str] | None]:
    """Return the annotations of a .mat file, and its class names if it has any."""
    content = mat.read(file)
    table = content.get("annotations")
    fields = (path_field, "class", *CORNERS)
    absent = [field for field in fields if not isinstance(table, dict) or field not in table]
    if not isinstance(table, dict) or absent:
        raise ValueError(f"{file}: found no field {absent[0]} in `annotations`, expected {', '.join(fields)}; {REMEDY}")
    rows = zip(*(table[field] for field in fields), strict=True)
    entries = [_annotation(file, number, prefix, *row) for number, row in enumerate(rows, start=1)]
    if not entries:
        raise ValueError(f"{file}: found no annotations, expected one per image; {REMEDY}")
    seen: dict[str, int] = {}
    for entry in entries:
        if entry.path in seen:
            entry.fail(f"path {entry.path!r} again, first in annotation {seen[entry.path]}", "each path once")
        seen[entry.path] = entry.number
    return entries, _class_names(content, file)


def _annotation(file: Path, number: int, prefix: str, path: Any, class_id: Any, *corners: Any) -> Annotation:
    where = f"{file}, annotation {number}"
    if not isinstance(path, str):
        raise ValueError(f"{where}: found {path!r:.80} as its path, expected text; {REMEDY}")
    x1, y1, x2, y2 = (_integer(value, name, where) for value, name in zip(corners, CORNERS, strict=True))
    label = _integer(class_id, "class", where)
    entry = Annotation(file, number, prefix + disk.inside(path, where), label, (x1, y1, x2, y2))
    if not 1 <= label <= CLASSES:
        entry.fail(f"class {label}", f"1 to {CLASSES}")
    if x2 < x1 or y2 < y1:
        entry.fail(f"a box from ({x1}, {y1}) to ({x2}, {y2})", "its second corner below and right of its first")
    return entry


def _integer(value: Any, meaning: str, where: str) -> int:
    if isinstance(value, int | float) and float(value).is_integer():
        return int(value)
    raise ValueError(f"{where}: found {value!r:.80} as {meaning}, expected an integer; {REMEDY}")


def _class_names(content: dict[str, Any], file: Path) -> list[str] | None:
    if "class_names" not in content:
        return None
    names = content["class_names"]
    if not isinstance(names, list) or len(names) != CLASSES or not all(isinstance(name, str) for name in names):
        found = f"{len(names)} entries" if isinstance(names, list) else repr(names)[:80]
        raise ValueError(f"{file}: found class_names with {found}, expected {CLASSES} names; {REMEDY}")
    return names


def _assemble(
    root: Path, found: str, entries: list[Annotation], names: list[str] | None, list_missing: bool
) -> Dataset:
    nested = {top for top in {entry.path.partition("/")[0] for entry in entries} if os.path.isdir(root / top / top)}
    samples = []
    for entry in entries:
        top = entry.path.partition("/")[0]
        x1, y1, x2, y2 = entry.corners
        samples.append(
            Sample(
                f"{top}/{entry.path}" if top in nested else entry.path,
                f"{entry.class_id:03d} {names[entry.class_id - 1]}" if names else f"{entry.class_id:03d}",
                splits.TRAIN if entry.class_id <= TRAIN_CLASSES else splits.TEST,
                (x1 - 1, y1 - 1, x2, y2),
            )
        )
    return disk.assemble(root, f"CARS196, {found}", samples, OFFICIAL, list_missing)

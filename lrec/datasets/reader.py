"""The entry point to all raw data sets: the registry of layouts, `read`, and `verify`, which checks the counts.

A new layout is one entry in `LAYOUTS` and the module that reads it.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lrec.datasets import car, cub, disk, folder, glyphs, isc, sop
from lrec.datasets.dataset import Dataset
from lrec.io import splits


@dataclass(frozen=True)
class Layout:
    """How raw data of a layout are read.

    Attributes:
        read: for a set on disk, takes its folder and whether to list missing images instead of raising; for a
            generated set, takes the side of its images in pixels.
        folders: usual names of the set's folder, tried after the one in params.yaml.
        on_disk: whether the images are files; otherwise they are generated.
    """

    read: Callable[..., Dataset]
    folders: tuple[str, ...] = ()
    on_disk: bool = True


LAYOUTS = {
    "glyphs": Layout(glyphs.read, on_disk=False),
    "car": Layout(car.read, car.FOLDERS),
    "cub": Layout(cub.read, cub.FOLDERS),
    "sop": Layout(sop.read, sop.FOLDERS),
    "isc": Layout(partial(isc.read, images="img"), isc.FOLDERS),
    "isc_highres": Layout(partial(isc.read, images="img_highres"), isc.FOLDERS),
    "folder": Layout(folder.read),
}


def read(
    layout: str,
    raw_root: Path,
    folder: str | None,
    image_size: int,
    *,
    list_missing: bool = False,
) -> Dataset:
    """Find a data set on disk and read it.

    Args:
        layout: one of `LAYOUTS`.
        raw_root: folder of the raw data sets.
        folder: the set's folder inside `raw_root`; a benchmark's usual names are tried after it.
        image_size: side of generated images in pixels; images on disk are not resized here.
        list_missing: return missing images in `Dataset.missing` instead of raising.

    Raises:
        FileNotFoundError: the folder, an annotation file or an image is missing.
        ValueError: the layout is unknown, or the annotations are malformed.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: found {layout!r}, expected one of {', '.join(LAYOUTS)}")
    entry = LAYOUTS[layout]
    if not entry.on_disk:
        return entry.read(image_size)
    if not folder:
        raise ValueError(f"layout {layout}: found no folder, expected the name of one inside {raw_root}")
    return entry.read(disk.locate(raw_root, folder, entry.folders), list_missing)


def verify(dataset: Dataset, name: str, allow_partial: bool) -> bool:
    """Compare a data set's images and classes with the official counts.

    Args:
        dataset: the data set.
        name: name of the variant, for the error.
        allow_partial: accept differences.

    Returns:
        Whether the set is partial: its counts differ and `allow_partial` is true. Results must then say so.

    Raises:
        ValueError: the counts differ and `allow_partial` is false; the message gives found and expected counts.
    """
    found = dataset.counts()
    if dataset.official is None or found == dataset.official:
        return False
    if allow_partial:
        return True
    raise ValueError(
        f"{name}: {differences(dataset)}; complete the data set (docs/datasets.md), or set allow_partial: true in "
        "params.yaml to go on with what is there"
    )


def require_enough(dataset: Dataset, name: str) -> list[str]:
    """Refuse a data set that is too small for training or testing.

    Args:
        dataset: the data set.
        name: name of the variant, for the error.

    Returns:
        One line if the set's recall would be meaningless, otherwise none.

    Raises:
        ValueError: there are fewer than two training classes or test images; the message says what to add.
    """
    counts = dataset.counts()
    for split, place, needed, why in (
        (splits.TRAIN, 1, "2 classes", "a network learns to tell them apart: add images of another class"),
        (splits.TEST, 0, "2 images", "each is searched for among the others: add another one"),
    ):
        found = counts.get(split, (2, 2))
        if found[place] < 2:
            raise ValueError(
                f"{name}: {split}: found {found[0]} {'image' if found[0] == 1 else 'images'} of {found[1]} "
                f"{'class' if found[1] == 1 else 'classes'}, expected at least {needed}; {why}"
            )
    tested = splits.tested(counts)
    queries, items = ([s.class_name for s in dataset.samples if s.split == split] for split in (tested[0], tested[-1]))
    times = Counter(items)
    lone = sum(times[query] <= (len(tested) == 1) for query in queries)
    reason = splits.meaningless(counts, len(queries), lone)
    return [reason] if reason else []


def differences(dataset: Dataset) -> str:
    """Return found and expected counts, one clause per split that differs; empty if none does."""
    found, official = dataset.counts(), dataset.official or {}
    clauses = []
    for split in dict.fromkeys([*official, *found]) if official else ():
        there, expected = found.get(split, (0, 0)), official.get(split, (0, 0))
        if there != expected:
            clauses.append(
                f"{split}: found {there[0]:,} images of {there[1]:,} classes, "
                f"expected {expected[0]:,} of {expected[1]:,}"
            )
    return "; ".join(clauses)

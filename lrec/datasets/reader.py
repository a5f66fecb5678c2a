"""The way into every raw data set: `read` picks the layout's reader, `verify` compares the counts."""

from pathlib import Path

from lrec.datasets import car, cub, disk, glyphs, isc, sop
from lrec.datasets.dataset import Dataset
from lrec.datasets.folder import read as read_folder

LAYOUTS = ("glyphs", "car", "cub", "sop", "isc", "isc_highres", "folder")
ALIASES = {
    "car": car.FOLDERS,
    "cub": cub.FOLDERS,
    "sop": sop.FOLDERS,
    "isc": isc.FOLDERS,
    "isc_highres": isc.FOLDERS,
    "folder": (),
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
        folder: the set's folder inside it; the usual names of a benchmark are tried after it.
        image_size: side in pixels of the generated set's pictures; the others are not resized here.
        list_missing: return missing images in `Dataset.missing` instead of raising.

    Raises:
        FileNotFoundError: the folder, an annotation file or an image is missing.
        ValueError: unknown layout, or malformed annotations.
    """
    if layout == "glyphs":
        return glyphs.read(image_size)
    if layout not in ALIASES:
        raise ValueError(f"layout: found {layout!r}, expected one of {', '.join(LAYOUTS)}")
    if not folder:
        raise ValueError(f"layout {layout}: found no folder, expected the name of one inside {raw_root}")
    root = disk.locate(raw_root, folder, ALIASES[layout])
    if layout in ("isc", "isc_highres"):
        return isc.read(root, "img" if layout == "isc" else "img_highres", list_missing)
    readers = {"car": car.read, "cub": cub.read, "sop": sop.read, "folder": read_folder}
    return readers[layout](root, list_missing)


def verify(dataset: Dataset, name: str, allow_partial: bool) -> bool:
    """Compare a data set's images and classes with the official counts.

    Args:
        dataset: as a reader returned it.
        name: of the variant, for the error.
        allow_partial: accept a difference.

    Returns:
        Whether the set is partial: it differs, and was accepted. Say so wherever its results appear.

    Raises:
        ValueError: it differs and `allow_partial` is false; found and expected counts of each split.
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


def differences(dataset: Dataset) -> str:
    """Return found against expected counts, one clause per split that differs; empty when none does."""
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

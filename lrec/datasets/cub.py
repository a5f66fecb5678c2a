"""CUB-200-2011: classes 1-100 for training, 101-200 for testing; its train_test_split.txt is not used.

Source: Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, CNS-TR-2011-001.
"""

import math
from pathlib import Path

from lrec.datasets import annotations, disk
from lrec.datasets.annotations import Row
from lrec.datasets.dataset import Box, Dataset, Sample
from lrec.io.splits import TEST, TRAIN

FOLDERS = ("CUB_200_2011", "CUB-200-2011", "CUB200", "cub200", "cub_200_2011")
OFFICIAL = {TRAIN: (5864, 100), TEST: (5924, 100)}
CLASSES, TRAIN_CLASSES = 200, 100


def read(root: Path, list_missing: bool = False) -> Dataset:
    """Read the set from the folder that holds images.txt, or one nested in it.

    A box is x, y, width and height in pixels, as decimals, from the image's top left corner; it is enlarged to
    whole pixels.

    Args:
        root: the data set's folder, with or without the outer CUB_200_2011.
        list_missing: return missing images in `Dataset.missing` instead of raising.

    Raises:
        FileNotFoundError: an annotation file or an image is missing.
        ValueError: an annotation is malformed; file and line are named.
    """
    root = disk.descend_to(root, ["images.txt"])
    paths = _by_id(root / "images.txt", ("image_id", "path"))
    annotations.unique(((row, row.cells[1]) for row in paths.values()), "path")
    classes = _by_id(root / "classes.txt", ("class_id", "class_name"), CLASSES)
    annotations.unique(((row, row.cells[1]) for row in classes.values()), "class name")
    labels = _by_id(root / "image_class_labels.txt", ("image_id", "class_id"))
    boxes = _by_id(root / "bounding_boxes.txt", ("image_id", "x", "y", "width", "height"))
    for other in (labels, boxes):
        _same_images(paths, other)
    class_ids = {image: row.integer(1, "the class", 1, CLASSES) for image, row in labels.items()}
    populated = set(class_ids.values())
    for class_id, row in classes.items():
        if class_id not in populated:
            row.fail(f"class {class_id} without images", "at least one image of each class")
    for image, class_id in class_ids.items():
        if class_id not in classes:
            labels[image].fail(f"class {class_id}", "a class of classes.txt")
    samples = [
        Sample(
            disk.inside(f"images/{row.cells[1]}", f"{row.file}, line {row.number}"),
            f"{class_ids[image]:03d}.{classes[class_ids[image]].cells[1].removeprefix(f'{class_ids[image]:03d}.')}",
            TRAIN if class_ids[image] <= TRAIN_CLASSES else TEST,
            _box(boxes[image]),
        )
        for image, row in paths.items()
    ]
    return disk.assemble(root, "CUB-200-2011, images.txt", samples, OFFICIAL, list_missing)


def _by_id(file: Path, columns: tuple[str, ...], high: int = annotations.MAX_NUMBER) -> dict[int, Row]:
    """Return the rows of a file, keyed by the id in the first column."""
    rows = [(row, row.integer(0, columns[0], 1, high)) for row in annotations.rows(file, columns)]
    annotations.unique(rows, columns[0])
    return {number: row for row, number in rows}


def _same_images(paths: dict[int, Row], other: dict[int, Row]) -> None:
    file = next(iter(other.values())).file
    lost = [image for image in paths if image not in other]
    if lost:
        raise ValueError(
            f"{file}: found no row for {len(lost)} images of images.txt, the first is image {lost[0]}, "
            f"expected one for each; {annotations.REMEDY}"
        )
    for image, row in other.items():
        if image not in paths:
            row.fail(f"image {image}", "an image of images.txt")


def _box(row: Row) -> Box:
    x, y, width, height = (row.decimal(column, "pixels of a box") for column in range(1, 5))
    if width <= 0 or height <= 0:
        row.fail(f"a box of {width} by {height} pixels", "a width and a height above 0")
    return row.box(math.floor(x), math.floor(y), math.ceil(x + width), math.ceil(y + height))

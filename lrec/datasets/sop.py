"""Stanford Online Products: Ebay_train.txt and Ebay_test.txt; it has no boxes.

Source: Oh Song et al., Deep Metric Learning via Lifted Structured Feature Embedding, CVPR 2016.
"""

from pathlib import Path

from lrec.datasets import annotations, disk
from lrec.datasets.annotations import Row
from lrec.datasets.dataset import Dataset, Sample
from lrec.io.splits import TEST, TRAIN

FOLDERS = ("Stanford_Online_Products", "SOP", "stanford_online_products", "online_products")
OFFICIAL = {TRAIN: (59551, 11318), TEST: (60502, 11316)}
COLUMNS = ("image_id", "class_id", "super_class_id", "path")
SUPER_CLASSES = 12


def read(root: Path, list_missing: bool = False) -> Dataset:
    """Read the set from the folder that holds Ebay_train.txt, or one nested in it.

    Args:
        root: the data set's folder.
        list_missing: return missing images in `Dataset.missing` instead of raising.

    Raises:
        FileNotFoundError: an annotation file or an image is missing.
        ValueError: an annotation is malformed; file and line are named.
    """
    root = disk.descend_to(root, ["Ebay_train.txt", "Ebay_test.txt"])
    rows = [
        (row, split) for split in OFFICIAL for row in annotations.rows(root / f"Ebay_{split}.txt", COLUMNS, header=True)
    ]
    annotations.unique(((row, row.integer(0, "image_id", 1)) for row, _ in rows), "image_id")
    annotations.unique(((row, row.cells[3]) for row, _ in rows), "path")
    samples = [_sample(row, split) for row, split in rows]
    return disk.assemble(root, "Stanford Online Products, Ebay_train.txt", samples, OFFICIAL, list_missing)


def _sample(row: Row, split: str) -> Sample:
    class_id = row.integer(1, "class_id", 1)
    row.integer(2, "super_class_id", 1, SUPER_CLASSES)
    path = disk.inside(row.cells[3], f"{row.file}, line {row.number}")
    return Sample(path, f"{class_id:05d}", split)

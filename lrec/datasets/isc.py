"""DeepFashion In-shop Clothes Retrieval: splits train, query and gallery from list_eval_partition.txt.

Source: Liu et al., DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich
Annotations, CVPR 2016.
"""

from pathlib import Path

from lrec.datasets import annotations, disk
from lrec.datasets.annotations import Row
from lrec.datasets.dataset import Box, Dataset, Sample
from lrec.io import missing
from lrec.io.splits import GALLERY, QUERY, TRAIN

FOLDERS = (
    "In-shop Clothes Retrieval Benchmark",
    "In-shop_Clothes_Retrieval_Benchmark",
    "DeepFashion_InShop",
    "In-shop",
    "inshop",
    "in_shop",
)
OFFICIAL = {TRAIN: (25882, 3997), QUERY: (14218, 3985), GALLERY: (12612, 3985)}
IMAGES = ("img", "img_highres")
PARTITION, PARTITION_COLUMNS = "list_eval_partition.txt", ("image_name", "item_id", "evaluation_status")
BOXES, BOX_COLUMNS = "list_bbox_inshop.txt", ("image_name", "clothes_type", "pose_type", "x_1", "y_1", "x_2", "y_2")


def read(root: Path, list_missing: bool = False, images: str = "img") -> Dataset:
    """Read the set from the folder that holds Eval/list_eval_partition.txt, or one nested in it.

    Boxes are read from Anno/list_bbox_inshop.txt if it exists. The release does not say how corners are counted; they
    are used unchanged: x_1, y_1 are counted from 0, and x_2, y_2 are exclusive. Boxes are in pixels of `img`, so
    samples of `img_highres` have none.

    Args:
        root: the data set's folder.
        list_missing: return missing images in `Dataset.missing` instead of raising.
        images: "img" (256x256 pixels) or "img_highres", the folder of the images, under Img/ or directly.

    Raises:
        FileNotFoundError: an annotation file or an image is missing.
        ValueError: an annotation is malformed; file and line are named. Or `images` is unknown.
    """
    if images not in IMAGES:
        raise ValueError(f"images: found {images!r}, expected one of {', '.join(IMAGES)}")
    root = disk.descend_to(root, [f"Eval/{PARTITION}", PARTITION])
    folder = _image_folder(root, images)
    partition = _either(root, "Eval", PARTITION)
    rows = annotations.rows(partition, PARTITION_COLUMNS, header=True, count=True)
    annotations.unique(((row, row.cells[0]) for row in rows), "image_name")
    boxes = _boxes(root, rows) if images == "img" else {}
    samples = [_sample(row, folder, boxes.get(row.cells[0])) for row in rows]
    found = f"In-shop, {partition.relative_to(root).as_posix()}, images under {folder}, " + (
        "with boxes" if boxes else "without boxes"
    )
    return disk.assemble(root, found, samples, OFFICIAL, list_missing)


def _either(root: Path, folder: str, name: str) -> Path:
    return root / folder / name if (root / folder / name).is_file() else root / name


def _image_folder(root: Path, images: str) -> str:
    """Return the folder that replaces `img` in the list's paths, relative to the root."""
    choices = [f"Img/{images}", images]
    for choice in choices:
        if (root / choice).is_dir():
            return choice
    other = next((name for name in IMAGES if (root / name).is_dir() or (root / "Img" / name).is_dir()), None)
    there = f" ({other} is there: layout {'isc' if other == 'img' else 'isc_highres'} reads it)" if other else ""
    there = there or disk.not_unpacked(root / "Img") or disk.not_unpacked(root) or missing.hint(root / images)
    raise FileNotFoundError(
        f"{root}: found no folder {' or '.join(choices)}, expected the unpacked images{there}; docs/datasets.md"
    )


def _sample(row: Row, folder: str, box: Box | None) -> Sample:
    name, item, status = row.cells
    if status not in OFFICIAL:
        row.fail(repr(status[:80]), f"evaluation_status, one of {', '.join(OFFICIAL)}")
    path = disk.inside(name, f"{row.file}, line {row.number}")
    if not path.startswith("img/"):
        row.fail(repr(name[:80]), "an image_name that begins with img/")
    return Sample(f"{folder}/{path.removeprefix('img/')}", item, status, box)


def _boxes(root: Path, images: list[Row]) -> dict[str, Box]:
    """Return the boxes by image name; empty if there is no file of boxes."""
    file = _either(root, "Anno", BOXES)
    if not file.is_file():
        return {}
    rows = annotations.rows(file, BOX_COLUMNS, header=True, count=True)
    annotations.unique(((row, row.cells[0]) for row in rows), "image_name")
    boxes = {row.cells[0]: row.box(*(row.integer(c, BOX_COLUMNS[c], 0) for c in range(3, 7))) for row in rows}
    for row in images:
        if row.cells[0] not in boxes:
            row.fail(f"image {row.cells[0]!r} without a box in {file.name}", "one for each image")
    names = {row.cells[0] for row in images}
    for row in rows:
        if row.cells[0] not in names:
            row.fail(f"a box of image {row.cells[0]!r}", f"an image of {PARTITION}")
    return boxes
